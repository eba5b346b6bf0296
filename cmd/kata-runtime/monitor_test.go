package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
	"github.com/katabuild/katabuild/internal/spans"
	"github.com/katabuild/katabuild/releases/install"
	"github.com/katabuild/katabuild/runtime/management"
	"github.com/katabuild/katabuild/runtime/metrics"
	"github.com/katabuild/katabuild/runtime/policygen"
	"github.com/katabuild/katabuild/runtime/record"
	"github.com/katabuild/katabuild/runtime/trace"
)

// loaded is a pod whose guest has a load.
type loaded struct{ management.Pod } // nil: nothing else is asked

func (loaded) GuestMetrics(context.Context) (string, error) {
	return "kata_guest_load{item=\"load1\"} 0.5\n", nil
}

func (loaded) VolumeStats(_ context.Context, path string) (*katapb.VolumeStatsResponse, error) {
	if path != "/mnt/v" {
		return nil, errors.New("no such volume")
	}
	return &katapb.VolumeStatsResponse{Usage: []*katapb.VolumeUsage{{Available: 1, Total: 3, Used: 2,
		Unit: katapb.VolumeUsage_BYTES}}}, nil
}

func (loaded) ResizeVolume(_ context.Context, path string, size int64) error {
	if path != "/mnt/v" || size != 1000000 {
		return errors.New("no such volume")
	}
	return nil
}

// IPTables, SetIPTables and SetPolicy are those of a guest that has rules of IPv6, and a policy of which nobody hears.
func (loaded) IPTables(_ context.Context, v6 bool) ([]byte, error) {
	if !v6 {
		return nil, status.Error(codes.Unimplemented, "no iptables\x1b[2J")
	}
	return []byte("*filter\n-A INPUT\x1b[2J -j DROP\nCOMMIT\n"), nil
}

func (loaded) SetIPTables(_ context.Context, v6 bool, rules []byte) error {
	if !v6 || string(rules) != "*filter\nCOMMIT\n" {
		return fmt.Errorf("rules %q of IPv6 %v", rules, v6)
	}
	return nil
}

func (loaded) SetPolicy(_ context.Context, policy string) error {
	if policy != "good\n" {
		return status.Error(codes.PermissionDenied, "the policy in force forbids it")
	}
	return nil
}

// startWatched ROOT ID: a pod with a management socket.
func startWatched(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: watched ROOT ID")
	}
	root := ts.MkAbs(args[0])
	r, err := newRecord(args[1])
	ts.Check(err)
	r.Annotations[policygen.PolicyAnnotation] = base64.StdEncoding.EncodeToString([]byte(
		"katabuild-policy 1\ndefault allow\n"))
	ts.Check(writeRecord(root, r))
	s, err := management.Serve(management.Options{Dirs: record.Dirs{State: root}, ID: args[1], Pod: loaded{},
		Calls: &metrics.Durations{}, Agent: &metrics.Durations{}, Log: slog.New(slog.DiscardHandler),
		Trace: func() ([]byte, bool) { return traceOf(ts, args[1]) }})
	ts.Check(err)
	ts.Defer(func() { ts.Check(s.Close()) })
}

// traceOf is the trace of a pod called traced, and of one called begun that is not started yet; others have none.
func traceOf(ts *testscript.TestScript, id string) ([]byte, bool) {
	r := trace.New("containerd-shim-kata-v2", trace.Options{})
	r.Decide(trace.Settings{Attributes: []spans.Attribute{{Key: trace.PodKey, Value: id}}})
	root := r.Begin(spans.Context{}, spans.Internal, trace.Name)
	ctx, child := trace.Start(trace.In(context.Background(), root), "shim/Create")
	_, boot := trace.Start(ctx, "boot <1>")
	boot.End(nil)
	child.End(errors.New("no room"))
	if id == "traced" {
		root.End(nil)
	}
	b, ok := r.Kept()
	return b, ok && (id == "traced" || id == "begun")
}

// freePort sets PORT to a TCP port that nobody has.
func freePort(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv("PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	ts.Check(l.Close())
}

// startTime is how long a server in the background may take until it answers.
const startTime = 30 * time.Second

// get PATH FILE asks the server on PORT, once it is there, and puts its answer into FILE.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: get PATH FILE")
	}
	for end := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://127.0.0.1:" + ts.Getenv("PORT") + args[0])
		if err != nil && time.Now().Before(end) {
			continue
		}
		ts.Check(err)
		b, err := io.ReadAll(resp.Body)
		ts.Check(err)
		ts.Check(resp.Body.Close())
		if resp.StatusCode != http.StatusOK {
			ts.Fatalf("%s: %s", args[0], resp.Status)
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o644))
		return
	}
}

// labelled is what the files of docs/monitoring have in common.
type labelled struct {
	Namespace string
	Labels    map[string]string
}

type monitorDaemonSet struct {
	Spec struct {
		Template struct {
			Metadata labelled
			Spec     struct {
				NodeSelector map[string]string `yaml:"nodeSelector"`
				Containers   []struct {
					Command []string
					Ports   []struct {
						Name string
						Port string `yaml:"containerPort"`
					}
					Mounts []struct {
						Name string
						Path string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct {
					Name string
					Host struct{ Path string } `yaml:"hostPath"`
				}
			}
		}
	}
}

type monitorService struct {
	Metadata labelled
	Spec     struct {
		Selector map[string]string
		Ports    []struct{ Name string }
	}
}

type serviceMonitor struct {
	Metadata labelled
	Spec     struct {
		Selector struct {
			Labels map[string]string `yaml:"matchLabels"`
		}
		Endpoints []struct{ Port string }
	}
}

// offeredFile is a file that the monitor's page offers.
func offeredFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/monitoring/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// started is the command that a file starts, with its flags.
func started(t *testing.T, argv []string) *cobra.Command {
	t.Helper()
	c, rest, err := (&app{}).root().Find(argv[1:])
	if err == nil {
		err = c.ParseFlags(rest)
	}
	if err != nil || c.Name() != "monitor" || len(c.Flags().Args()) > 0 {
		t.Errorf("%q: %v", argv, err)
	}
	return c
}

func TestTheMonitorOfAClusterFits(t *testing.T) {
	var set monitorDaemonSet
	var service monitorService
	var all serviceMonitor
	docs := strings.Split(offeredFile(t, "daemonset.yaml"), "\n---\n")
	if err := errors.Join(yaml.Unmarshal([]byte(docs[0]), &set), yaml.Unmarshal([]byte(docs[1]), &service),
		yaml.Unmarshal([]byte(offeredFile(t, "servicemonitor.yaml")), &all)); err != nil {
		t.Fatal(err)
	}
	pod := set.Spec.Template
	monitor := pod.Spec.Containers[0]
	if want := install.DefaultPrefix + "/current/release/bin/kata-runtime"; monitor.Command[0] != want {
		t.Errorf("%s is started, not %s", monitor.Command[0], want)
	}
	address := started(t, monitor.Command).Flag("listen-address").Value.String()
	if port := monitor.Ports[0]; !strings.HasSuffix(address, ":"+port.Port) || port.Name != "metrics" {
		t.Errorf("it listens on %s, and offers %+v", address, port)
	}
	if pod.Spec.NodeSelector["katacontainers.io/kata-runtime"] != "true" {
		t.Errorf("it runs on nodes with %q", pod.Spec.NodeSelector)
	}
	mounted := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		mounted[v.Name] = v.Host.Path
	}
	for _, m := range monitor.Mounts {
		if mounted[m.Name] != m.Path {
			t.Errorf("%s is at %s, and on the node at %s", m.Name, m.Path, mounted[m.Name])
		}
	}
	if d := (record.Dirs{}).WithDefaults().Monitor; mounted["pods"] != d {
		t.Errorf("pods' sockets are below %s, not %s", d, mounted["pods"])
	}
	if !maps.Equal(service.Spec.Selector, pod.Metadata.Labels) ||
		!maps.Equal(all.Spec.Selector.Labels, service.Metadata.Labels) ||
		all.Metadata.Namespace != service.Metadata.Namespace ||
		all.Spec.Endpoints[0].Port != service.Spec.Ports[0].Name {
		t.Errorf("pods have %q; %+v; %+v", pod.Metadata.Labels, service, all)
	}
}

func TestTheMonitorOfAHostFits(t *testing.T) {
	for l := range strings.Lines(offeredFile(t, "kata-monitor.service")) {
		if argv, ok := strings.CutPrefix(l, "ExecStart="); ok {
			started(t, strings.Fields(argv))
			return
		}
	}
	t.Error("the unit starts nothing")
}
