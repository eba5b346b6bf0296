package dan

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/internal/agentapi/katapb"
)

// full is a file with everything in it.
const full = `{"netns": "/run/netns/switch", "devices": [
{"name": "eth0", "guest_mac": "02:00:00:00:00:0A",
 "device": {"type": "vhost-user", "path": "/run/vpp/pod.sock", "queue_num": 2, "queue_size": 1024},
 "network_info": {"interface": {"ip_addresses": ["192.0.2.7/24", "2001:db8::7/64"], "mtu": 1450, "ntype": "tuntap",
  "flags": 4227},
  "routes": [{"dest": "0.0.0.0/0", "gateway": "192.0.2.1", "source": "192.0.2.7", "scope": 0, "flags": 0, "mtu": 1400},
   {"dest": "", "gateway": "2001:db8::1"}, {"dest": "198.51.100.3/24", "gateway": "", "scope": 253}],
  "neighbors": [{"ip_address": "192.0.2.1/24", "device": "", "state": 128, "flags": 2,
   "hardware_addr": "02:00:00:00:00:01"}, {"ip_address": "192.0.2.2", "hardware_addr": "02:00:00:00:00:02"}]}},
{"name": "eth1", "device": {"type": "host-tap", "tap_name": "tap7"},
 "network_info": {"interface": {"ip_addresses": []}}}]}`

func TestAFileSaysWhatTheGuestHas(t *testing.T) {
	n, err := Parse([]byte(full), "pod")
	if err != nil {
		t.Fatal(err)
	}
	if n.Netns != "/run/netns/switch" || len(n.Devices) != 2 {
		t.Fatalf("%+v", n)
	}
	a, b := n.Devices[0], n.Devices[1]
	if a.Socket != "/run/vpp/pod.sock" || a.Tap != "" || a.Queues != 2 || a.QueueSize != 1024 || b.Tap != "tap7" ||
		b.Socket != "" || b.Queues != 1 || b.QueueSize != 0 {
		t.Errorf("%+v, %+v", a, b)
	}
	i := a.Interface
	if i.Name != "eth0" || i.Device != "eth0" || i.HwAddr != "02:00:00:00:00:0a" || i.Mtu != 1450 ||
		i.Type != "tuntap" || i.RawFlags != 128 || len(i.IPAddresses) != 2 || i.IPAddresses[0].Mask != "24" ||
		i.IPAddresses[1].Family != katapb.IPFamily_v6 || i.IPAddresses[1].Address != "2001:db8::7" {
		t.Errorf("interface %v", i)
	}
	r := a.Routes
	if len(r) != 3 || r[0].Dest != "" || r[0].Gateway != "192.0.2.1" || r[0].Mtu != 1400 || r[0].Device != "eth0" ||
		r[1].Family != katapb.IPFamily_v6 || r[2].Dest != "198.51.100.0/24" || r[2].Scope != 253 {
		t.Errorf("routes %v", r)
	}
	x := a.Neighbours
	if len(x) != 2 || x[0].ToIPAddress.Address != "192.0.2.1" || x[0].ToIPAddress.Mask != "24" || x[0].State != 128 ||
		x[1].ToIPAddress.Mask != "" || x[1].Lladdr != "02:00:00:00:00:02" {
		t.Errorf("neighbours %v", x)
	}
	again, err := Parse([]byte(full), "pod")
	other, err2 := Parse([]byte(full), "another")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	mac := b.Interface.HwAddr
	if b.Interface.Mtu != 1500 || mac != again.Devices[1].Interface.HwAddr ||
		mac == other.Devices[1].Interface.HwAddr || !strings.Contains("26ae", mac[1:2]) {
		t.Errorf("an address of nobody's choice: %v", b.Interface)
	}
}

func TestWhatIsWrongWithAFileIsNamed(t *testing.T) {
	for says, change := range map[string][2]string{
		`unknown field "nets"`:                      {`"netns"`, `"nets"`},
		`unknown field "Netns"`:                     {`"netns"`, `"Netns"`},
		`"name" stands twice`:                       {`"name": "eth0",`, `"name": "eth0", "name": "eth0",`},
		"cannot unmarshal":                          {`"mtu": 1450`, `"mtu": "1450"`},
		"there is something behind":                 {`[]}}}]}`, `[]}}}]} {}`},
		"unexpected EOF":                            {`[]}}}]}`, `[]}}}]`},
		`netns "run": want an absolute path`:        {`"/run/netns/switch"`, `"run"`},
		"(eth 0): name":                             {`"name": "eth0"`, `"name": "eth 0"`},
		"another one has this name":                 {`"name": "eth1"`, `"name": "eth0"`},
		"eth0 has its hardware address":             {`"name": "eth1",`, `"name": "eth1", "guest_mac": "02:00:00:00:00:0a",`},
		`guest_mac "01:00:00:00:00:0A"`:             {`02:00:00:00:00:0A`, `01:00:00:00:00:0A`},
		`type "macvlan": want host-tap, vhost-user`: {`"host-tap"`, `"macvlan"`},
		`pci_device_id "": want an address`:         {`"host-tap"`, `"vfio"`},
		`pci_device_id "01:00.0": want an address`: {`"host-tap", "tap_name": "tap7"`,
			`"vfio", "pci_device_id": "01:00.0"`},
		"tap_name is no key of a device of type vfi": {`"host-tap"`, `"vfio", "pci_device_id": "0000:01:00.0"`},
		"no queue_num and queue_size": {`"host-tap", "tap_name": "tap7"`,
			`"vfio", "pci_device_id": "0000:01:00.0", "queue_num": 1`},
		"no guest_mac: the guest finds": {`"host-tap", "tap_name": "tap7"`,
			`"vfio", "pci_device_id": "0000:01:00.0"`},
		"tap_name is no key of a device of type vho": {`"path"`, `"tap_name": "x", "path"`},
		"path is no key of a device of type host-ta": {`"tap_name"`, `"path": "/x", "tap_name"`},
		`path "pod.sock": want the absolute path`:    {`/run/vpp/pod.sock`, `pod.sock`},
		`tap_name "": want`:                          {`"tap7"`, `""`},
		"queue_num 2: an interface on a tap has one": {`"tap7"`, `"tap7", "queue_num": 2`},
		"queue_num -1: want 0 to 256":                {`"queue_num": 2`, `"queue_num": -1`},
		"queue_size 512000: want 0, or a power":      {`"queue_size": 1024`, `"queue_size": 512000`},
		"queue_size 300: want 0, or a power":         {`"queue_size": 1024`, `"queue_size": 300`},
		"mtu 67: want 68 to 65535":                   {`1450`, `67`},
		"no ip_addresses":                            {`{"ip_addresses": []}`, `{}`},
		`ip_addresses: "127.0.0.1/8"`:                {`192.0.2.7/24`, `127.0.0.1/8`},
		`ip_addresses: "192.0.2.7"`:                  {`192.0.2.7/24`, `192.0.2.7`},
		`routes: dest "10.0.0.0/33"`:                 {`0.0.0.0/0`, `10.0.0.0/33`},
		`routes: gateway "there"`:                    {`"gateway": "192.0.2.1"`, `"gateway": "there"`},
		`addresses of both families`:                 {`"gateway": "192.0.2.1"`, `"gateway": "2001:db8::1"`},
		"neither dest nor gateway nor source":        {`"gateway": "2001:db8::1"`, `"gateway": ""`},
		`neighbors: ip_address "x"`:                  {`"192.0.2.2"`, `"x"`},
		`neighbors: hardware_addr "x"`:               {`02:00:00:00:00:02`, `x`},
		`neighbors: device "eth9"`:                   {`"device": ""`, `"device": "eth9"`},
		"no devices":                                 {full, `{"netns": null}`},
	} {
		text := strings.Replace(full, change[0], change[1], 1)
		if _, err := Parse([]byte(text), "pod"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if n, err := Parse([]byte(`{"netns": null, "devices": []}`), "pod"); err != nil || n.Netns != "" {
		t.Errorf("no device at all: %+v, %v", n, err)
	}
	twice := strings.Replace(full, `{"type": "vhost-user", "path": "/run/vpp/pod.sock", "queue_num": 2, `+
		`"queue_size": 1024}`, `{"type": "host-tap", "tap_name": "tap7"}`, 1)
	if _, err := Parse([]byte(twice), "pod"); err == nil || !strings.Contains(err.Error(), "it is that of eth0") {
		t.Errorf("one tap twice: %v", err)
	}
	many := `{"devices": [` + strings.Repeat(`{},`, maxDevices) + `{}]}`
	if _, err := Parse([]byte(many), "pod"); err == nil || !strings.Contains(err.Error(), "at most 32") {
		t.Errorf("many devices: %v", err)
	}
}

func TestAFileOfSomebodyElseIsRefused(t *testing.T) {
	path := Path(t.TempDir(), "pod")
	if _, err := Read(path, "pod"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("none: %v", err)
	}
	if err := os.WriteFile(path, []byte(full), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Read(path, "pod"); err != nil || len(n.Devices) != 2 {
		t.Errorf("%+v, %v", n, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, "pod"); err == nil || !strings.Contains(err.Error(), "other users may write to it") {
		t.Errorf("writable: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(`{}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, "pod"); err == nil || !strings.Contains(err.Error(), path+": no devices") {
		t.Errorf("without devices: %v", err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat(" ", maxFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, "pod"); err == nil || !strings.Contains(err.Error(), "has more than") {
		t.Errorf("huge: %v", err)
	}
	if filepath.Base(path) != "pod.json" {
		t.Error(path)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{"devices":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Parse(data, "pod")
		if err != nil {
			return
		}
		for _, d := range n.Devices {
			if d.Tap+d.Socket+d.PCI == "" || d.Interface == nil || d.Queues < 1 {
				t.Errorf("%+v", d)
			}
		}
	})
}
