// Package firecrackertest is a strict server that stands for Firecracker in tests, and a jailer that stands for its
// own.
//
// In come requests; out come the answers that Firecracker's API description (src/firecracker/swagger/firecracker.yaml
// of version 1.17) documents, for what is unknown, of a wrong type, in a wrong order or in a wrong state a
// fault_message with status 400. What requests describe is checked, and can be carried out by a QEMU that stands in
// behind (package standintest).
package firecrackertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/runtime/hypervisor/rest/resttest"
	"github.com/katabuild/katabuild/runtime/hypervisor/standintest"
)

// schemas are the API's, as far as there are requests for them.
var schemas = resttest.Schemas{
	"MachineConfiguration": "vcpu_count! integer 1..32, mem_size_mib! integer 1.., smt boolean, cpu_template string, " +
		"track_dirty_pages boolean, huge_pages HugePages",
	"HugePages":   "enum None|Transparent|2M",
	"BootSource":  "kernel_image_path! string, initrd_path string, boot_args string",
	"TokenBucket": "size! integer, one_time_burst integer, refill_time! integer",
	"RateLimiter": "bandwidth TokenBucket, ops TokenBucket",
	"CacheType":   "enum Unsafe|Writeback",
	"IOEngine":    "enum Sync|Async",
	"Drive": "drive_id! string, partuuid string, is_root_device! boolean, cache_type CacheType, " +
		"is_read_only boolean, path_on_host string, rate_limiter RateLimiter, io_engine IOEngine, socket string",
	"PartialDrive": "drive_id! string, path_on_host string, rate_limiter RateLimiter",
	"NetworkInterface": "iface_id! string, host_dev_name! string, guest_mac string, mtu integer 68..65535, " +
		"rx_rate_limiter RateLimiter, tx_rate_limiter RateLimiter",
	"EntropyDevice":      "rate_limiter RateLimiter",
	"Vsock":              "guest_cid! integer 3.., uds_path! string, vsock_id string",
	"ActionType":         "enum FlushMetrics|InstanceStart|SendCtrlAltDel",
	"InstanceActionInfo": "action_type! ActionType",
}

// maxInterrupts is how many devices of x86_64 have one.
const maxInterrupts = 19

// standIn carries out what requests describe. A server without one only judges them.
type standIn interface {
	// Boot starts a machine.
	Boot(ctx context.Context, c *machine) error
	// Change gives a drive another file.
	Change(ctx context.Context, id, path string) error
}

// machine is what the requests before the boot describe.
type machine struct {
	size struct {
		CPUs      int `json:"vcpu_count"`
		MemoryMiB int `json:"mem_size_mib"`
	}
	source struct {
		Kernel string `json:"kernel_image_path"`
		Initrd string `json:"initrd_path"`
		Args   string `json:"boot_args"`
	}
	drives  []driveBody
	nics    []string
	vsock   string
	entropy bool
}

type driveBody struct {
	ID       string `json:"drive_id"`
	Root     bool   `json:"is_root_device"`
	ReadOnly *bool  `json:"is_read_only"`
	Path     string `json:"path_on_host"`
}

// server is one Firecracker. It must not be asked two things at once.
type server struct {
	behind  standIn
	root    string // of the files that it is told of; empty is the host's
	machine machine
	running bool
}

// said is an error in Firecracker's words.
type said string

func (s said) Error() string { return string(s) }

func fault(format string, args ...any) resttest.Answer {
	b, _ := json.Marshal(map[string]string{"fault_message": fmt.Sprintf(format, args...)}) // texts
	return resttest.Answer{Status: 400, Body: b}
}

// answer answers one request.
func (s *server) answer(r resttest.Request) resttest.Answer {
	parts := strings.Split(strings.Trim(r.Path, "/"), "/")
	id := ""
	if len(parts) == 2 {
		id = parts[1]
	}
	if len(parts) > 2 || len(r.Files) > 0 {
		return fault("Invalid request method and/or path: %s %s.", r.Method, r.Path)
	}
	if r.Method == "GET" && parts[0] == "version" && id == "" {
		return resttest.Answer{Status: 200, Body: []byte(`{"firecracker_version":"1.12.1"}`)}
	}
	e, ok := endpoints[r.Method+" "+parts[0]]
	if !ok || e.named != (id != "") {
		return fault("Invalid request method and/or path: %s %s.", r.Method, r.Path)
	}
	if err := schemas.Check(e.body, r.Body); err != nil {
		return fault("An error occurred when deserializing the json body of a request: %v.", err)
	}
	switch {
	case e.before && s.running:
		return fault("The requested operation is not supported after starting the microVM.")
	case !e.before && !s.running:
		return fault("The requested operation is not supported before starting the microVM.")
	}
	if err := e.serve(s, id, r.Body); err != nil {
		return fault("%v", err)
	}
	return resttest.Answer{Status: 204}
}

type endpoint struct {
	body          string
	named, before bool // it has a name in its path; it is for the time before the boot
	serve         func(s *server, id string, body []byte) error
}

var endpoints = map[string]endpoint{
	"PUT machine-config": {"MachineConfiguration", false, true, func(s *server, _ string, b []byte) error {
		return json.Unmarshal(b, &s.machine.size)
	}},
	"PUT boot-source": {"BootSource", false, true, func(s *server, _ string, b []byte) error {
		if err := json.Unmarshal(b, &s.machine.source); err != nil {
			return err
		}
		f, err := os.Open(s.at(s.machine.source.Kernel))
		if err != nil {
			return said(fmt.Sprintf("The kernel file cannot be opened: %v", err))
		}
		return f.Close()
	}},
	"PUT drives":             {"Drive", true, true, (*server).drive},
	"PATCH drives":           {"PartialDrive", true, false, (*server).change},
	"PUT network-interfaces": {"NetworkInterface", true, true, (*server).nic},
	"PUT entropy": {"EntropyDevice", false, true, func(s *server, _ string, _ []byte) error {
		s.machine.entropy = true
		return nil
	}},
	"PUT vsock": {"Vsock", false, true, func(s *server, _ string, b []byte) error {
		var v struct {
			Path string `json:"uds_path"`
		}
		err := json.Unmarshal(b, &v)
		s.machine.vsock = s.at(v.Path)
		return err
	}},
	"PUT actions": {"InstanceActionInfo", false, true, (*server).act},
}

// at is where a file lies that the server is told of.
func (s *server) at(path string) string {
	if s.root == "" {
		return path
	}
	return filepath.Join(s.root, path)
}

func (s *server) drive(id string, b []byte) error {
	var d driveBody
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	switch _, err := os.Stat(s.at(d.Path)); {
	case d.ID != id:
		return said("The id from the path does not match the id from the body!")
	case d.Path == "" || d.ReadOnly == nil:
		return said("Invalid drive: path_on_host and is_read_only are needed")
	case err != nil:
		return said(fmt.Sprintf("Unable to open the backing file: %v", err))
	}
	s.machine.drives = append(s.machine.drives, d)
	return nil
}

func (s *server) change(id string, b []byte) error {
	var d driveBody
	if err := json.Unmarshal(b, &d); err != nil {
		return err
	}
	there := slices.ContainsFunc(s.machine.drives, func(o driveBody) bool { return o.ID == id })
	switch _, err := os.Stat(s.at(d.Path)); {
	case d.ID != id:
		return said("The id from the path does not match the id from the body!")
	case !there:
		return said(fmt.Sprintf("Invalid block device ID: %s", id))
	case err != nil:
		return said(fmt.Sprintf("Unable to open the backing file: %v", err))
	case s.behind != nil:
		return s.behind.Change(context.Background(), id, s.at(d.Path))
	}
	return nil
}

func (s *server) nic(id string, b []byte) error {
	var n struct {
		ID string `json:"iface_id"`
	}
	if err := json.Unmarshal(b, &n); err != nil {
		return err
	}
	if n.ID != id {
		return said("The id from the path does not match the id from the body!")
	}
	s.machine.nics = append(s.machine.nics, id)
	return nil
}

func (s *server) act(_ string, b []byte) error {
	var a struct {
		Type string `json:"action_type"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return err
	}
	devices := len(s.machine.drives) + len(s.machine.nics)
	for _, has := range []bool{s.machine.vsock != "", s.machine.entropy} {
		if has {
			devices++
		}
	}
	switch {
	case a.Type != "InstanceStart":
		return said("The requested operation is not supported before starting the microVM.")
	case s.machine.source.Kernel == "":
		return said("Cannot start microvm without kernel configuration.")
	case devices > maxInterrupts:
		return said("Cannot allocate an interrupt: the maximum number of devices was reached")
	}
	if s.behind != nil {
		if err := s.behind.Boot(context.Background(), &s.machine); err != nil {
			return err
		}
	}
	s.running = true
	return nil
}

// By which names a test's own program is the strict one.
const (
	name   = "firecracker"
	Alone  = "firecracker-alone" // requests are only judged, and no guest runs
	Jailer = "jailer"
)

// Is says whether a program, by its first argument, is to be one of the strict ones: Main then.
func Is(args []string) bool {
	base := filepath.Base(args[0])
	return base == name || base == Alone || base == Jailer
}

// Main is the strict Firecracker, with a QEMU behind it unless it is Alone, or the strict jailer, which judges how it
// is called and then is Firecracker, alone. It returns the exit code.
func Main(args []string) int {
	var err error
	if base := filepath.Base(args[0]); base == Jailer {
		err = jailed(args[1:])
	} else {
		err = run(args[1:], base == Alone, "")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "strict firecracker:", err)
		return 1
	}
	return 0
}

// jailed is the jailer. Firecracker: docs/jailer.md.
func jailed(args []string) error {
	own := slices.Index(args, "--")
	if own < 0 || own%2 != 0 {
		return fmt.Errorf("%q: want options and --", args)
	}
	o := map[string]string{}
	for i := 0; i < own; i += 2 {
		if !slices.Contains([]string{"--id", "--exec-file", "--uid", "--gid", "--chroot-base-dir", "--cgroup-version",
			"--netns"}, args[i]) {
			return fmt.Errorf("unknown argument %q", args[i])
		}
		o[args[i]] = args[i+1]
	}
	for _, needed := range []string{"--id", "--exec-file", "--uid", "--gid"} {
		if o[needed] == "" {
			return fmt.Errorf("missing argument %s", needed)
		}
	}
	root := filepath.Join(o["--chroot-base-dir"], filepath.Base(o["--exec-file"]), o["--id"], "root")
	if st, err := os.Stat(root); err != nil || !st.IsDir() {
		return fmt.Errorf("no root of the jail: %w", err)
	}
	return run(append([]string{"--id", o["--id"]}, args[own+1:]...), true, root)
}

func run(args []string, alone bool, root string) error {
	o := map[string]string{}
	for i := 0; i+1 < len(args); i += 2 {
		if !slices.Contains([]string{"--id", "--api-sock", "--log-path", "--level"}, args[i]) {
			return fmt.Errorf("unknown argument %q", args[i])
		}
		o[args[i]] = args[i+1]
	}
	if len(args)%2 != 0 || o["--api-sock"] == "" {
		return fmt.Errorf("%q: want options, and --api-sock", args)
	}
	s := &server{root: root}
	if err := os.WriteFile(s.at(o["--log-path"]), []byte("strict firecracker\n"), 0o600); err != nil {
		return err
	}
	q := &qemu{over: make(chan error, 1)}
	if !alone {
		s.behind = q
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.at(o["--api-sock"]), Net: "unix"})
	if err != nil {
		return err
	}
	go resttest.Serve(l, s.answer)
	return <-q.over
}

// qemu is a standIn.
type qemu struct {
	m    *standintest.Machine
	over chan error
}

// Boot starts QEMU.
func (q *qemu) Boot(ctx context.Context, m *machine) error {
	c := standintest.Config{CommandLine: m.source.Args + appended(len(m.drives)+2), CPUs: m.size.CPUs,
		MemoryMiB: m.size.MemoryMiB, RNG: m.entropy, Vsock: m.vsock, MMIO: true, Streams: os.Stdin}
	var open []*os.File
	defer func() {
		for _, f := range open {
			_ = f.Close() // QEMU has its own
		}
	}()
	file := func(path string, flags int) (*os.File, error) {
		f, err := os.OpenFile(path, flags, 0)
		if err == nil {
			open = append(open, f)
		}
		return f, err
	}
	var err error
	if c.Kernel, err = file(m.source.Kernel, os.O_RDONLY); err != nil {
		return err
	}
	if m.source.Initrd != "" {
		if c.Initrd, err = file(m.source.Initrd, os.O_RDONLY); err != nil {
			return err
		}
	}
	for _, d := range m.drives {
		flags := os.O_RDWR
		if *d.ReadOnly {
			flags = os.O_RDONLY
		}
		f, err := file(d.Path, flags)
		if err != nil {
			return err
		}
		c.Disks = append(c.Disks, standintest.Disk{ID: d.ID, File: f, ReadOnly: *d.ReadOnly})
	}
	if len(m.nics) > 0 {
		return errors.New("the QEMU behind the strict server has no taps by name")
	}
	if q.m, err = standintest.Start(ctx, c); err != nil {
		return err
	}
	go func() {
		<-q.m.Done()
		q.over <- q.m.Stop()
	}()
	return nil
}

// appended are the words that Firecracker puts behind the command line for so many devices.
func appended(devices int) string {
	words := " pci=off"
	for i := range devices {
		words += fmt.Sprintf(" virtio_mmio.device=4K@0x%x:%d", 0xc0001000+0x1000*i, 5+i)
	}
	return words
}

// Change gives a disk another file.
func (q *qemu) Change(ctx context.Context, id, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return q.m.Change(ctx, id, f)
}
