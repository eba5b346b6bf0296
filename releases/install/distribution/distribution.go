// Package distribution is the table of Kubernetes' distributions: where the container runtime of each takes settings
// from, and which unit of systemd runs it.
//
// It reads a host and changes nothing. Another distribution is another row.
package distribution

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Layout is where the containerd of a distribution takes settings from, beside the file that it is told in. The zero
// value is that of a containerd of the host's own.
type Layout struct {
	Name string `json:"name,omitempty"` // of the row
	// Main is the file that containerd reads, where the distribution makes it anew whenever it starts.
	Main string `json:"main,omitempty"`
	// DropIns is the folder from which settings are taken into Main; empty where a block has to go elsewhere.
	DropIns string `json:"drop_ins,omitempty"`
	Version int    `json:"version,omitempty"` // of the format of files there
}

// Found is what Find found.
type Found struct {
	Layout Layout
	Config string // the file for a block: a main file, or the template of one
	// Containerd and CRIO say whose runtime it is. Both are true where a host has both, and nobody said which.
	Containerd, CRIO bool
}

// row is one distribution.
type row struct {
	name  string
	signs []string // files or folders, of which a node has one
	units []string
	find  func(fs.FS, row) (Found, error)
}

// table has the distributions, those first whose nodes may have the signs of a later one, too.
var table = []row{
	// k3s: docs.k3s.io, Advanced Options, Configuring containerd. The main file is made of config-v3.toml.tmpl, of
	// config.toml.tmpl where there is only that, or of what k3s has built in, which such a template includes by
	// {{ template "base" . }} since 2023. Since 2026 that imports config-v3.toml.d/*.toml (k3s-io/k3s#13680).
	{"k3s", []string{"/var/lib/rancher/k3s/agent/etc/containerd"}, []string{"k3s.service", "k3s-agent.service"},
		rancher("/var/lib/rancher/k3s/agent/etc/containerd")},
	// rke2: docs.rke2.io, Advanced Options, Configuring containerd: as k3s, whose code it is.
	{"rke2", []string{"/var/lib/rancher/rke2/agent/etc/containerd"},
		[]string{"rke2-server.service", "rke2-agent.service"}, rancher("/var/lib/rancher/rke2/agent/etc/containerd")},
	// k0s: docs.k0sproject.io, Runtime. It merges what lies in containerd.d into the settings of CRI, watches that
	// folder, and has its containerd read them anew, so that no unit is restarted.
	{"k0s", []string{k0sMain, "/var/lib/k0s/bin/containerd"}, nil, k0s},
	// MicroK8s: its services take settings from /var/snap/microk8s/current/args (canonical.com/microk8s/docs,
	// Configuring services); run-containerd-with-args makes containerd.toml of the template.
	{"microk8s", []string{microk8sTemplate}, []string{"snap.microk8s.daemon-containerd.service"},
		func(_ fs.FS, r row) (Found, error) {
			return Found{Layout: Layout{Name: r.name}, Config: microk8sTemplate, Containerd: true}, nil
		}},
	// kubeadm's page Container Runtimes: /etc/containerd/config.toml, whoever made it. Files of conf.d are read where
	// the main file imports them; package install looks.
	{plain, []string{"/etc/containerd", "/usr/bin/containerd", "/usr/local/bin/containerd"},
		[]string{"containerd.service"}, func(_ fs.FS, r row) (Found, error) {
			return Found{Layout: Layout{Name: r.name}, Config: containerdMain, Containerd: true}, nil
		}},
	// CRI-O: crio.conf.d(5).
	{crioName, []string{"/etc/crio", "/run/crio/crio.sock"}, []string{"crio.service"},
		func(_ fs.FS, r row) (Found, error) {
			return Found{Layout: Layout{Name: r.name}, Config: containerdMain, CRIO: true}, nil
		}},
}

// The rows of runtimes that are no part of another program.
const (
	plain    = "containerd"
	crioName = "crio"
)

const (
	containerdMain   = "/etc/containerd/config.toml"
	k0sMain          = "/etc/k0s/containerd.toml"
	k0sDropIns       = "/etc/k0s/containerd.d"
	microk8sTemplate = "/var/snap/microk8s/current/args/containerd-template.toml"
)

// Auto is the name for whichever is found.
const Auto = "auto"

// Names are those of the rows, without Auto.
func Names() []string {
	var out []string
	for _, r := range table {
		out = append(out, r.name)
	}
	return out
}

// Units are those of systemd of which one runs the container runtime of a distribution, by its name.
func Units(name string) []string {
	r, _ := named(name) // none, where there is no such distribution
	return r.units
}

// Find says what a host has, whose root file system is given. The name is one of Names, or Auto.
func Find(host fs.FS, name string) (Found, error) {
	if name != Auto {
		r, err := named(name)
		if err != nil {
			return Found{}, err
		}
		return r.on(host)
	}
	var looked []string
	for _, r := range table {
		there, err := r.there(host)
		if err != nil {
			return Found{}, err
		}
		looked = append(looked, r.signs...)
		if !there {
			continue
		}
		f, err := r.on(host)
		if err != nil || r.name != plain {
			return f, err
		}
		// A host may have both. Nothing on it says which one the kubelet asks, so both are told.
		crio, err := named(crioName)
		if err != nil {
			return f, err
		}
		f.CRIO, err = crio.there(host)
		return f, err
	}
	return Found{}, fmt.Errorf("no container runtime that is known: there is none of %s; name the distribution",
		strings.Join(looked, ", "))
}

func named(name string) (row, error) {
	for _, r := range table {
		if r.name == name {
			return r, nil
		}
	}
	return row{}, fmt.Errorf("distribution %q: want %s, %s", name, Auto, strings.Join(Names(), ", "))
}

// there says whether a host has a sign of the distribution.
func (r row) there(host fs.FS) (bool, error) {
	for _, s := range r.signs {
		if ok, err := exists(host, s); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (r row) on(host fs.FS) (Found, error) {
	f, err := r.find(host, r)
	if err != nil {
		err = fmt.Errorf("%s: %w", r.name, err)
	}
	return f, err
}

// rancher finds where k3s and rke2 are told: by a file in the folder that the main file imports, otherwise by a
// template.
func rancher(dir string) func(fs.FS, row) (Found, error) {
	return func(host fs.FS, r row) (Found, error) {
		main := path.Join(dir, "config.toml")
		m, err := parse(host, main)
		if err != nil {
			return Found{}, err
		}
		f := Found{Layout: Layout{Name: r.name, Main: main}, Config: path.Join(dir, "config.toml.tmpl"),
			Containerd: true}
		if m.version < 3 {
			// What is imported takes the place of all settings of CRI in containerd 1: it has to be the template.
			return f, nil
		}
		f.Config = path.Join(dir, "config-v3.toml.tmpl")
		dropIns := path.Join(dir, "config-v3.toml.d")
		if slices.Contains(m.imports, path.Join(dropIns, "*.toml")) {
			f.Layout.DropIns, f.Layout.Version = dropIns, 3
		}
		return f, nil
	}
}

// k0sMark is the line by which k0s knows a file as its own.
const k0sMark = "# k0s_managed=true"

func k0s(host fs.FS, r row) (Found, error) {
	m, err := parse(host, k0sMain)
	if err != nil {
		return Found{}, err
	}
	if !strings.Contains(m.text, k0sMark) {
		return Found{}, fmt.Errorf("%s is not managed by k0s, which therefore reads nothing of %s: remove it and "+
			"restart k0s, or take the distribution containerd with this file as containerd's main file", k0sMain,
			k0sDropIns)
	}
	return Found{Layout: Layout{Name: r.name, Main: k0sMain, DropIns: k0sDropIns, Version: m.version}, Config: k0sMain,
		Containerd: true}, nil
}

// maxText is the largest file that is read, in bytes.
const maxText = 4 << 20

// mainFile is what a main file says of itself.
type mainFile struct {
	text    string
	version int
	imports []string
}

// parse reads a main file that a distribution has made.
func parse(host fs.FS, name string) (m mainFile, err error) {
	f, err := host.Open(rel(name))
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s is not there: it has not started on this host yet", name)
	}
	if err != nil {
		return m, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return m, err
	}
	var doc struct {
		Version int      `toml:"version"`
		Imports []string `toml:"imports"`
	}
	if err := toml.Unmarshal(data, &doc); err != nil {
		return m, fmt.Errorf("%s: %w", name, err)
	}
	if doc.Version < 2 {
		return m, fmt.Errorf("%s has version %d of containerd's format: want 2 or higher", name, doc.Version)
	}
	return mainFile{string(data), doc.Version, doc.Imports}, nil
}

func exists(host fs.FS, p string) (bool, error) {
	_, err := fs.Stat(host, rel(p))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// rel is an absolute path as fs.FS wants it.
func rel(p string) string { return strings.TrimPrefix(p, "/") }
