package cost

import (
	"bufio"
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Boot is what a kernel said of its initcalls while it booted with initcall_debug, and its System.map.
type Boot struct {
	Console, SystemMap []byte
}

// several is a group of initcalls: those whose objects cannot be told from others of the same name.
const several = "not told apart"

// initcall is a function that the kernel calls while it boots, and the time that it took.
type initcall struct {
	module string // KBUILD_MODNAME of its object; empty where nobody knows
	us     int64
}

// returned is what Linux prints of an initcall that has returned, with its name or, of a kernel without names, its
// address. Linux: init/main.c, trace_initcall_finish_cb.
var returned = regexp.MustCompile(`initcall (?:0x([0-9a-f]{1,16})|([A-Za-z0-9_.]{1,256})\+0x[0-9a-f/x]+)` +
	`(?: \[\w+\])? returned -?\d+ after (\d{1,12}) usecs`)

// marker is the symbol that stands for an initcall in System.map: the module's name, a counter, the line in its file,
// the function's name and when it is called. Linux: include/linux/init.h, __initcall_id.
var marker = regexp.MustCompile(`^__initcall__kmod_(.+)__\d+_\d+_(.+?)(?:early|con|rootfs|\ds?)$`)

// maxInitcalls bounds what is read of a console; Linux 6.12 with all built in has 3,000 initcalls.
const maxInitcalls = 20_000

// initcalls reads what a kernel said of its initcalls.
func (b Boot) initcalls() ([]initcall, error) {
	modules, functions, err := readSystemMap(b.SystemMap)
	if err != nil {
		return nil, err
	}
	var out []initcall
	for _, m := range returned.FindAllSubmatch(b.Console, maxInitcalls) {
		us, err := strconv.ParseInt(string(m[3]), 10, 64)
		if err != nil {
			return nil, err
		}
		names := []string{string(m[2])}
		if len(m[1]) > 0 {
			at, err := strconv.ParseUint(string(m[1]), 16, 64)
			if err != nil {
				return nil, err
			}
			names = functions[at]
		}
		c := initcall{us: us}
		for _, name := range names {
			if mods := modules[name]; len(mods) == 1 {
				c.module = mods[0]
			}
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the kernel said nothing of its initcalls")
	}
	return out, nil
}

// readSystemMap reads which modules have an initcall of a name, and which functions lie at an address. Each line is an
// address, a kind and a name. Linux: scripts/mksysmap.
func readSystemMap(data []byte) (modules map[string][]string, functions map[uint64][]string, err error) {
	modules, functions = map[string][]string{}, map[uint64][]string{}
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) != 3 {
			continue
		}
		if m := marker.FindStringSubmatch(f[2]); m != nil {
			if !slices.Contains(modules[m[2]], m[1]) {
				modules[m[2]] = append(modules[m[2]], m[1])
			}
			continue
		}
		if kind := f[1]; kind != "t" && kind != "T" {
			continue
		}
		at, err := strconv.ParseUint(f[0], 16, 64)
		if err != nil {
			return nil, nil, fmt.Errorf("the addresses of System.map: %w", err)
		}
		functions[at] = append(functions[at], f[2])
	}
	return modules, functions, s.Err()
}

// measure adds the times of initcalls to a report.
func (k Kernel) measure(r *Report, o *owners, b Boot) error {
	all, err := b.initcalls()
	if err != nil {
		return err
	}
	objects := k.modules()
	for _, c := range all {
		r.BootUS += c.us
		group, of := several, objects[c.module]
		for i, object := range of {
			if g := k.group(o, object); i == 0 {
				group = g
			} else if g != group {
				group = several
			}
		}
		i := slices.IndexFunc(r.Features, func(f Feature) bool { return f.Name == group })
		if i < 0 {
			i = len(r.Features)
			r.Features = append(r.Features, Feature{Name: group})
		}
		r.Features[i].BootUS += c.us
		for i := range r.Options {
			symbol := strings.TrimPrefix(r.Options[i].Option, "CONFIG_")
			if len(of) > 0 && !slices.ContainsFunc(of, func(object string) bool {
				need, ok := k.Makefiles.Of(object)
				return !ok || need.Without(func(s string) bool { return s == symbol })
			}) {
				r.Options[i].BootUS += c.us
			}
		}
	}
	return nil
}

// modules are the objects by the name that their initcalls have: that of the composite that they are a part of, or
// their own. Linux: scripts/Makefile.lib, name-fix-token.
func (k Kernel) modules() map[string][]string {
	out := map[string][]string{}
	add := func(object string) {
		name := strings.NewReplacer("-", "_", ",", "_").Replace(strings.TrimSuffix(path.Base(object), ".o"))
		if !slices.Contains(out[name], object) {
			out[name] = append(out[name], object)
		}
	}
	for object := range k.Makefiles.Composites {
		add(object)
	}
	for _, c := range k.Objects {
		if _, ok := k.Makefiles.Objects[c.Object]; ok {
			add(c.Object)
		}
	}
	return out
}
