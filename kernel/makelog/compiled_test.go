package makelog

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestWhatABuildCompiledIsReadFromItsLog(t *testing.T) {
	all := []Compiled{
		{Object: "kernel/fork.o", CPU: 1234 * time.Millisecond, Bytes: 56789},
		{Object: "fs/libxfs/xfs ag.o", Cached: true}, // no name of a kernel's object has a blank
		{Object: "net/ipv4/tcp.o", Cached: true, CPU: 2 * time.Millisecond, Bytes: 1},
	}
	log := "  CC      kernel/fork.o\n  compiled 9 ms 9 bytes foisted.o\n" + Headline("6.12.94-kb-0123456789") + "\n"
	for _, c := range all {
		log += c.String() + "\n"
	}
	release, got, err := ReadCompiled(strings.NewReader(log))
	want := []Compiled{all[0], all[2]}
	if err != nil || release != "6.12.94-kb-0123456789" || !reflect.DeepEqual(got, want) {
		t.Errorf("%q %+v %v, want %+v", release, got, err, want)
	}
}

func TestALogOfBeforeSizesWereRecordedIsRead(t *testing.T) {
	const log = "  CC      a.o\n  cached 7 ms a.o\n  compiled 3 ms b/c.o\n  cached 8 ms a.o\n" +
		"  cached 1 ms ../out.o\n  cached 1 ms /abs.o\n  cached 1 ms b/../a.o\n  cached 99999999999 ms d.o\n"
	release, got, err := ReadCompiled(strings.NewReader(log))
	want := []Compiled{{Object: "a.o", Cached: true, CPU: 8 * time.Millisecond},
		{Object: "b/c.o", CPU: 3 * time.Millisecond}}
	if err != nil || release != "" || !reflect.DeepEqual(got, want) {
		t.Errorf("%q %+v %v, want %+v", release, got, err, want)
	}
}

// FuzzReadCompiled: what is read is written in the same way.
func FuzzReadCompiled(f *testing.F) {
	f.Add("  cached 7 ms a.o\n  compiled 3 ms 12 bytes b/c.o\n")
	f.Add(Headline("6.12") + "\n  cached 0 ms 0 bytes ..\n")
	f.Fuzz(func(t *testing.T, log string) {
		_, all, err := ReadCompiled(strings.NewReader(log))
		if err != nil {
			return
		}
		var again strings.Builder
		for _, c := range all {
			again.WriteString(c.String() + "\n")
		}
		if _, got, err := ReadCompiled(strings.NewReader(again.String())); err != nil || !reflect.DeepEqual(got, all) {
			t.Errorf("%+v became %+v: %v", all, got, err)
		}
	})
}
