package check

import (
	"context"
	"regexp"
	"strconv"

	"github.com/katabuild/katabuild/internal/finding"
	"github.com/katabuild/katabuild/runtime/config"
	"github.com/katabuild/katabuild/runtime/hypervisor"
)

// other is a hypervisor beside QEMU, as its program says what it is.
type other struct {
	config, name string
	says         *regexp.Regexp // the first line of --version
	major, minor int            // of the version that the requests were written for
}

// others are they. The versions are those of Kata Containers 4.1.
var others = []other{
	{config.HypervisorCLH, "Cloud Hypervisor", regexp.MustCompile(`cloud-hypervisor v?(\d+)\.(\d+)`), 51, 1},
	{config.HypervisorFirecracker, "Firecracker", regexp.MustCompile(`Firecracker v?(\d+)\.(\d+)`), 1, 12},
}

// peopleName is a hypervisor's name for people.
func peopleName(name string) string {
	for _, o := range others {
		if o.config == name {
			return o.name
		}
	}
	return "QEMU"
}

// hypervisor looks for the program of the configuration's hypervisor.
func (c *checker) hypervisor(ctx context.Context) {
	for _, o := range others {
		if o.config == c.cfg.Hypervisor {
			c.other(ctx, o)
			return
		}
	}
	c.qemu(ctx)
}

func (c *checker) other(ctx context.Context, o other) {
	wayOut := "install a release of its project, as Debian has none, or name one as path in [hypervisor." + o.config +
		"]; or use [hypervisor.qemu]"
	program := c.cfg.VM.Path
	if program == "" {
		var err error
		if program, err = hypervisor.Program(o.config, c.arch); err != nil {
			c.say(finding.Missing, o.name, wayOut, "%v", err)
			return
		}
	}
	path, err := c.host.Find(program)
	if err != nil {
		c.say(finding.Missing, o.name, wayOut, "%v", err)
		return
	}
	out, err := c.host.Output(ctx, path, "--version")
	v := o.says.FindStringSubmatch(string(out))
	if err != nil || v == nil {
		c.say(finding.Missing, o.name, wayOut, "%s does not say that it is %s: %.100q, %v", path, o.name, out, err)
		return
	}
	major, _ := strconv.Atoi(v[1]) // digits; what is too large is large
	minor, _ := strconv.Atoi(v[2])
	if major < o.major || major == o.major && minor < o.minor {
		c.say(finding.Optional, o.name, wayOut, "%s is version %d.%d, and what it is asked was written for %d.%d", path,
			major, minor, o.major, o.minor)
		return
	}
	c.say(finding.Fine, o.name, "", "%s, version %d.%d", path, major, minor)
	if jailer := c.cfg.VM.JailerPath; jailer != "" {
		if _, err := c.host.Find(jailer); err != nil {
			c.say(finding.Missing, "jailer", "install it with Firecracker, or leave jailer_path empty", "%v", err)
			return
		}
		c.say(finding.Fine, "jailer", "", "%s", jailer)
	}
}
