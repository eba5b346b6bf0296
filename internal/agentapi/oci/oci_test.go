package oci

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// lost are the fields of the specification that no guest gets: there is no place for them in the mirror, and no use for
// them in a guest.
var lost = map[string]bool{
	"Spec.Solaris": true, "Spec.Windows": true, "Spec.VM": true, "Spec.ZOS": true, "Spec.FreeBSD": true,
	"Process.CommandLine": true,
	"Process.Scheduler":   true, "Process.IOPriority": true, "Process.ExecCPUAffinity": true,
	"Mount.UIDMappings": true, "Mount.GIDMappings": true,
	"Linux.NetDevices": true, "Linux.MemoryPolicy": true, "Linux.Personality": true, "LinuxResources.Rdma": true,
	"LinuxMemory.UseHierarchy":      true,
	"LinuxMemory.CheckBeforeUpdate": true, "LinuxSeccomp.ListenerPath": true, "LinuxSeccomp.ListenerMetadata": true,
	"LinuxIntelRdt.ClosID": true, "LinuxIntelRdt.MemBwSchema": true, "LinuxIntelRdt.Schemata": true,
	"LinuxIntelRdt.EnableMonitoring": true,
	"LinuxIntelRdt.EnableCMT":        true, "LinuxIntelRdt.EnableMBM": true,
}

// fill puts something into every field, so that a field that is forgotten on the way shows.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if !lost[v.Type().Name()+"."+v.Type().Field(i).Name] {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), e)
	case reflect.String:
		v.SetString("text " + string(rune('a'+*n%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(int64(*n))
	case reflect.Uint, reflect.Uint64, reflect.Uint32, reflect.Uint16:
		v.SetUint(uint64(*n))
	default:
		panic(v.Kind().String())
	}
}

func TestEveryFieldArrives(t *testing.T) {
	var s specs.Spec
	n := 0
	fill(reflect.ValueOf(&s).Elem(), &n)
	w, err := ToWire(&s)
	if err != nil {
		t.Fatal(err)
	}
	b, err := proto.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	var arrived katapb.Spec
	if err := proto.Unmarshal(b, &arrived); err != nil {
		t.Fatal(err)
	}
	got, err := FromWire(&arrived)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&s, got) {
		want, _ := json.MarshalIndent(s, "", " ")
		have, _ := json.MarshalIndent(got, "", " ")
		t.Errorf("sent\n%s\nhave\n%s", want, have)
	}
}

func TestWhatIsNotSetStaysSo(t *testing.T) {
	s := &specs.Spec{
		Process: &specs.Process{Args: []string{"sh"}},
		Linux: &specs.Linux{
			Devices: []specs.LinuxDevice{{Path: "/dev/x"}},
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, Pids: &specs.LinuxPids{},
				Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}},
			},
			Seccomp: &specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}}}},
		},
	}
	w, err := ToWire(s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromWire(w)
	if err != nil || !reflect.DeepEqual(s, got) {
		t.Errorf("%+v, %v", got, err)
	}
	if w, err := ToWire(nil); w != nil || err != nil {
		t.Error(w, err)
	}
	if s, err := FromWire(nil); s != nil || err != nil {
		t.Error(s, err)
	}
}

func TestNobodyElseSaysWhatTheMirrorLacks(t *testing.T) {
	w, err := ToWire(&specs.Spec{Process: &specs.Process{}, Annotations: map[string]string{extraKey: `{"umask":18}`}})
	if err != nil || w.Annotations[extraKey] != "" {
		t.Error(w, err)
	}
	if _, err := FromWire(&katapb.Spec{Annotations: map[string]string{extraKey: "{"}}); err == nil ||
		!strings.Contains(err.Error(), extraKey) {
		t.Error(err)
	}
}

func TestDeviceModesAreNumbers(t *testing.T) {
	mode := os.FileMode(0o600)
	w, err := ToWire(&specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{FileMode: &mode}}}})
	if err != nil || w.Linux.Devices[0].FileMode != 0o600 {
		t.Error(w, err)
	}
}
