package check

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/internal/mountinfo"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/share"
)

func (c *checker) sharedFiles(ctx context.Context) {
	const name = "virtiofsd"
	needed := c.cfg.VM.SharedFS == config.SharedVirtioFS
	state := finding.Optional
	if needed {
		state = finding.Missing
	} else {
		defer c.fileLimits(share.Program{})
	}
	program := c.cfg.VM.VirtioFSDaemon
	if program == "" {
		program = c.system().VirtioFSD
	}
	wayOut := "install it (Debian: virtiofsd, before 13 qemu-system-common), name one as virtio_fs_daemon, or set " +
		`shared_fs = "virtio-9p"`
	if !needed {
		wayOut = "none needed"
	}
	if program == "" {
		c.say(state, name, wayOut, "not found; shared_fs is %s", c.cfg.VM.SharedFS)
		return
	}
	found, err := c.host.Find(program)
	if err != nil {
		c.say(state, name, wayOut, "%v; shared_fs is %s", err, c.cfg.VM.SharedFS)
		return
	}
	help, err1 := c.host.Output(ctx, found, "--help")
	version, err2 := c.host.Output(ctx, found, "--version")
	if err := errors.Join(err1, err2); err != nil && len(help) == 0 {
		c.say(state, name, wayOut, "%s: %v; shared_fs is %s", found, err, c.cfg.VM.SharedFS)
		return
	}
	c.say(finding.Fine, name, "", "%s", share.Identify(found, help, version))
	if needed {
		c.fileLimits(share.Identify(found, help, version))
	}
}

// fileLimits tells what programs cannot have of shared files.
func (c *checker) fileLimits(p share.Program) {
	const name = "shared files"
	var limits []string
	wayOut := ""
	switch c.cfg.VM.SharedFS {
	case config.SharedVirtioFS:
		if limits = p.Limits(); !p.Rust {
			wayOut = "install the virtiofsd in Rust, version 1.13 or later (Debian 13: virtiofsd)"
		}
	case config.Shared9P:
		limits, wayOut = share.Limits9P, `set shared_fs = "virtio-fs"`
	}
	state := finding.Optional
	if len(limits) == 0 {
		state = finding.Fine
	}
	if c.cfg.VM.SharedFS == config.SharedNone {
		return
	}
	limits = append(slices.Clone(limits), share.LimitOfLocks)
	f := c.say(state, name, wayOut, "%d limits by %s, in docs/files.md; pods run", len(limits), c.cfg.VM.SharedFS)
	f.Details = limits
}

func (c *checker) tun(context.Context) {
	const device = "/dev/net/tun"
	err := c.host.Device(device)
	if errors.Is(err, errNotLoaded) {
		if p := c.kernel().find(part{"tun", "CONFIG_TUN"}); p.there() {
			c.say(finding.Fine, "tun", "", "%s is there, and tun is %s", device, p)
			return
		}
	}
	if err != nil {
		state, wayOut := finding.Optional, "none needed"
		if m := c.cfg.Runtime.InternetworkingModel; m == config.NetworkTC || m == config.NetworkL3 {
			state, wayOut = finding.Missing, `modprobe tun, or set internetworking_model = "none"`
			if errors.Is(err, fs.ErrPermission) {
				wayOut = "run it as root"
				if c.system().UID != 0 {
					state = finding.Optional // it says nothing about the runtime, which is root
				}
			}
		}
		c.say(state, "tun", wayOut, "%s; internetworking_model is %s", pathless(device, err),
			c.cfg.Runtime.InternetworkingModel)
		return
	}
	c.say(finding.Fine, "tun", "", "%s opens", device)
}

// presence is what is known about a part of the host's kernel.
type presence int

const (
	unknown presence = iota
	absent
	loadable // the kernel loads the module when it is first needed
	loaded
	builtin
)

func (p presence) String() string {
	// continues "is"
	return [...]string{"not known", "absent", "a module that is loaded when needed", "a loaded module", "built in"}[p]
}

func (p presence) there() bool { return p >= loadable }

// part is something that is built in or a module.
type part struct{ module, option string }

// trafficControl looks for what joins a pod's interface and the guest's.
func (c *checker) trafficControl(context.Context) {
	const name = "traffic control"
	model := c.cfg.Runtime.InternetworkingModel
	if model != config.NetworkTC {
		c.say(finding.Fine, name, "", "not needed; internetworking_model is %s", model)
		return
	}
	k := c.kernel()
	parts := []part{{"cls_matchall", "CONFIG_NET_CLS_MATCHALL"}, {"cls_u32", "CONFIG_NET_CLS_U32"},
		{"sch_ingress", "CONFIG_NET_SCH_INGRESS"}, {"act_mirred", "CONFIG_NET_ACT_MIRRED"}}
	var details []string
	var p []presence
	for _, x := range parts {
		p = append(p, k.find(x))
		details = append(details, fmt.Sprintf("%s (%s) is %s", x.module, x.option, p[len(p)-1]))
	}
	var f *finding.Finding
	wayOut := `use a kernel with it, or set internetworking_model = "macvtap" or "none"`
	switch {
	case p[0] == absent && p[1] == absent:
		f = c.say(finding.Missing, name, wayOut, "the kernel has neither classifier, matchall nor u32")
	case p[2] == absent || p[3] == absent:
		f = c.say(finding.Missing, name, wayOut, "the kernel lacks the queue sch_ingress or the action act_mirred")
	case (p[0].there() || p[1].there()) && p[2].there() && p[3].there():
		classifier := 0
		if !p[0].there() {
			classifier = 1
		}
		f = c.say(finding.Fine, name, "", "%s is %s", parts[classifier].module, p[classifier])
	default:
		f = c.say(finding.Optional, name, "start a pod with a network to know",
			"neither /proc nor /boot nor /lib/modules tells whether the kernel has matchall or u32, sch_ingress and "+
				"act_mirred")
	}
	f.Details = details
}

// kernel is what the host says about its own kernel. What it does not say is nil.
type kernel struct {
	loaded, builtin, modules []byte // /proc/modules; modules.builtin and modules.dep
	config                   []byte // of /proc/config.gz, or in /boot
}

func (c *checker) kernel() kernel {
	read := func(path string) []byte {
		b, _ := c.host.Read(path) // that it is not there is an answer
		return b
	}
	release := c.system().Release
	dir := path.Join("/lib/modules", release)
	k := kernel{loaded: read("/proc/modules"), builtin: read(dir + "/modules.builtin"),
		modules: read(dir + "/modules.dep"), config: read("/boot/config-" + release)}
	if b, err := unzip(read("/proc/config.gz")); err == nil {
		k.config = b
	}
	return k
}

// unzip unpacks at most readLimit bytes.
func unzip(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, readLimit))
}

// find judges from what is certain to what is likely.
func (k kernel) find(p part) presence {
	for l := range strings.Lines(string(k.loaded)) {
		if name, _, _ := strings.Cut(l, " "); name == p.module {
			return loaded
		}
	}
	var said string
	for l := range strings.Lines(string(k.config)) {
		l = strings.TrimSpace(l)
		if v, ok := strings.CutPrefix(l, p.option+"="); ok {
			said = v
		} else if l == "# "+p.option+" is not set" {
			said = "n"
		}
	}
	if said == "y" || lists(k.builtin, p.module) {
		return builtin
	}
	if lists(k.modules, p.module) {
		return loadable
	}
	switch {
	case said == "m" && k.modules == nil:
		return unknown // its modules may be elsewhere
	case k.config != nil, k.builtin != nil && k.modules != nil:
		return absent // an option whose menu is off is not mentioned at all
	}
	return unknown
}

// lists says whether a list of modules' paths has a module. A name may have dashes for underscores.
func lists(list []byte, module string) bool {
	for l := range strings.Lines(string(list)) {
		file, _, _ := strings.Cut(strings.TrimSpace(l), ":")
		name, _, ok := strings.Cut(path.Base(file), ".ko")
		if ok && strings.ReplaceAll(name, "-", "_") == module {
			return true
		}
	}
	return false
}

func (c *checker) controlGroups(context.Context) {
	const name = "cgroups"
	b, err := c.host.Read("/proc/self/mountinfo")
	if err != nil {
		c.say(finding.Optional, name, "mount /proc", "%v", err)
		return
	}
	all, err := mountinfo.Parse(string(b))
	if err != nil {
		c.say(finding.Optional, name, "", "/proc/self/mountinfo: %v", err)
		return
	}
	v1, v2 := 0, ""
	for _, m := range all {
		switch m.Type {
		case "cgroup":
			v1++
		case "cgroup2":
			v2 = m.Point
		}
	}
	switch {
	case v1 > 0:
		c.say(finding.Fine, name, "", "version 1, %d hierarchies", v1)
	case v2 != "":
		c.say(finding.Fine, name, "", "version 2 at %s", v2)
	default:
		c.say(finding.Optional, name, "mount them: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
			"none are mounted; pods' processes on the host are not limited")
	}
}
