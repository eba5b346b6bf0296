package clhtest

import (
	"os"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
)

const machine = `{"cpus":{"boot_vcpus":1,"max_vcpus":2},"memory":{"size":268435456,"hotplug_size":268435456},` +
	`"payload":{"kernel":"/k","cmdline":"quiet"},"vsock":{"cid":3,"socket":"/v"}}`

// TestWhatTheDescriptionRefusesIsRefused asks one server after the other, in this order.
func TestWhatTheDescriptionRefusesIsRefused(t *testing.T) {
	s := &server{}
	tap, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	for _, c := range []struct {
		method, path, body string
		files              int
		status             int
		says               string
	}{
		{"GET", "vmm.ping", "", 0, 200, `"v51.1.0"`},
		{"PUT", "vmm.ping", "", 0, 400, "Bad Request"},
		{"GET", "vm.nothing", "", 0, 404, "Not Found"},
		{"PUT", "vm.boot", "", 0, 404, "not created"},
		{"GET", "vm.info", "", 0, 404, "not created"},
		{"PUT", "vm.add-disk", `{"id":"d","path":"/d"}`, 0, 404, "not created"},
		{"PUT", "vm.create", "", 0, 400, "Bad Request"},
		{"PUT", "vm.create", "{", 0, 400, "no JSON"},
		{"PUT", "vm.create", `{}`, 0, 400, "missing field `payload`"},
		{"PUT", "vm.create", `{"payload":{"kernel":"/k"},"colour":1}`, 0, 400, "unknown field `colour`"},
		{"PUT", "vm.create", `{"payload":{"kernel":1}}`, 0, 400,
			"body.payload.kernel: invalid type, expected a string"},
		{"PUT", "vm.create", `{"payload":{"kernel":"/k"},"cpus":{"boot_vcpus":0,"max_vcpus":1}}`, 0, 400,
			"out of range"},
		{"PUT", "vm.create", strings.Replace(machine, `"max_vcpus":2`, `"max_vcpus":1.5`, 1), 0, 400,
			"expected an integer"},
		{"PUT", "vm.create", strings.Replace(machine, `"cid":3`, `"cid":2`, 1), 0, 400, "out of range"},
		{"PUT", "vm.create", strings.Replace(machine, `"/k"`, `""`, 1), 0, 400, "Kernel is missing"},
		{"PUT", "vm.create", strings.Replace(machine, `"vsock"`, `"fs":[{"tag":"a","socket":"/s","num_queues":1,`+
			`"queue_size":1024}],"vsock"`, 1), 0, 400, "shared memory"},
		{"PUT", "vm.create", machine, 1, 400, "Bad Request"},
		{"PUT", "vm.create", machine, 0, 204, ""},
		{"PUT", "vm.create", machine, 0, 500, "already created"},
		{"PUT", "vm.resize", `{"desired_vcpus":2}`, 0, 500, "not running"},
		{"PUT", "vm.add-net", `{"id":"n","mac":"52:54:00:00:00:01"}`, 1, 204, ""},
		{"PUT", "vm.add-net", `{"id":"m"}`, 0, 400, "Number of FDs"},
		{"PUT", "vm.boot", `{}`, 0, 400, "Bad Request"},
		{"PUT", "vm.boot", "", 0, 204, ""},
		{"PUT", "vm.boot", "", 0, 500, "already running"},
		{"GET", "vm.info", "", 0, 200, `"Running"`},
		{"PUT", "vm.add-disk", `{"id":"d","path":"/d","image_type":"Paper"}`, 0, 400, "unknown variant Paper"},
		{"PUT", "vm.add-disk", `{"id":"d","path":"/d","image_type":"Raw"}`, 0, 200, `"bdf":"0000:00:`},
		{"PUT", "vm.add-disk", `{"id":"d","path":"/d"}`, 0, 409, "not unique"},
		{"PUT", "vm.add-disk", `{"id":"_d","path":"/d"}`, 0, 400, "reserved"},
		{"PUT", "vm.remove-device", `{"id":"x"}`, 0, 404, "Unknown device"},
		{"PUT", "vm.remove-device", `{"id":"d"}`, 0, 204, ""},
		{"PUT", "vm.resize", `{"desired_vcpus":3}`, 0, 500, "exceeds maximum"},
		{"PUT", "vm.resize", `{"desired_ram":268435457}`, 0, 500, "multiple of 128 MiB"},
		{"PUT", "vm.resize", `{"desired_ram":1073741824}`, 0, 500, "Not enough space"},
		{"PUT", "vm.resize", `{"desired_ram":402653184,"desired_vcpus":2}`, 0, 204, ""},
		{"PUT", "vmm.shutdown", "", 0, 204, ""},
	} {
		r := resttest.Request{Method: c.method, Path: "/api/v1/" + c.path, Body: []byte(c.body)}
		for range c.files {
			r.Files = append(r.Files, tap)
		}
		a := s.answer(r)
		if a.Status != c.status || !strings.Contains(string(a.Body), c.says) {
			t.Errorf("%s %s %s: %d %s, want %d and %q", c.method, c.path, c.body, a.Status, a.Body, c.status, c.says)
		}
	}
	if !s.Ended {
		t.Error("it does not end")
	}
}
