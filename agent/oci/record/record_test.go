package record

import (
	"reflect"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/golden"
)

func example() *Record {
	return &Record{
		Version: Version, ID: "web", OCI: "1.0.2", Bundle: "/srv/web", Rootfs: "/srv/web/rootfs",
		Created: "2026-11-24T12:00:00.5Z", Process: Process{Pid: 4711, Start: 815},
		Groups: map[string]string{"memory": "/sys/fs/cgroup/memory/web", "pids": "/sys/fs/cgroup/pids/web"},
		Join:   Join{PIDs: true}, Annotations: map[string]string{"a": "b"},
	}
}

func TestTheRecordIsCanonical(t *testing.T) {
	b, err := Encode(example())
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "state.json", b)
	got, err := Decode(b)
	if err != nil || !reflect.DeepEqual(got, example()) {
		t.Errorf("%+v, %v", got, err)
	}
	for what, change := range map[string][2]string{
		"another version": {`"version": 1`, `"version": 2`}, "an unknown field": {`"owner"`, `"user"`},
		"cut": {"}\n", ""}, "a relative control group": {`"/sys/fs/cgroup/pids/web"`, `"pids/web"`},
		"the root as a control group": {`"/sys/fs/cgroup/pids/web"`, `"/"`}, "process 1": {`4711`, `1`},
		"no time": {"2026-11-24T", "yesterday"},
	} {
		if _, err := Decode([]byte(strings.Replace(string(b), change[0], change[1], 1))); err == nil {
			t.Errorf("%s is read", what)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)                   // as it is written
	f.Add(b[:len(b)/2])        // half of it
	f.Add([]byte("{}\n"))      // nothing in it
	f.Add([]byte(`{"id":"x"`)) // no end
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Encode(r)
		if err != nil || string(again) != string(data) {
			t.Errorf("%q becomes %q, %v", data, again, err)
		}
	})
}
