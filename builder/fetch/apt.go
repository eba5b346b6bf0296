package fetch

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/rootfs/debian"
)

// Apt reaches Debian's archive through the host's apt-get: its mirrors, proxies and keys, but with state folders of our
// own, so it needs no root, changes nothing on the host, and works for any suite and architecture the mirror has.
type Apt struct {
	// Dir keeps package lists between runs.
	Dir string
	// Sources, when not empty, is the address of an archive to use instead of the host's: a sources.list URI.
	Sources string
	// Options are further `-o` settings of apt-get, such as a keyring for Sources.
	Options []string
	// Env is the environment to run apt in.
	Env []string
}

// keyring is where Debian's own keys are, on Debian and, from the package debian-archive-keyring, elsewhere.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Found is a package as the archive has it now.
type Found struct {
	Package lock.Package
	Digest  digest.Digest
	Size    int64
	Date    time.Time // of the suite's release file
}

// Resolve asks for the newest version of a package in a suite. arch is dpkg's name.
func (a *Apt) Resolve(ctx context.Context, suite, arch, pkg string) (*Found, error) {
	w, err := a.world(ctx, Section{Suite: suite}, arch)
	if err != nil {
		return nil, err
	}
	if err := w.update(ctx); err != nil {
		return nil, err
	}
	out, err := w.run(ctx, "apt-cache", "show", "--no-all-versions", pkg)
	if err != nil && ctx.Err() == nil {
		if none := a.noPackage(ctx, suite, arch, pkg); none != nil {
			return nil, none
		}
	}
	if err != nil {
		return nil, fmt.Errorf("package %s in Debian %s: %w", pkg, suite, err)
	}
	f, err := parseShow(out)
	if err != nil {
		return nil, fmt.Errorf("package %s in Debian %s: %w", pkg, suite, err)
	}
	f.Package.Suite = suite
	rel, err := w.release()
	f.Date = rel.Date
	return f, err
}

// NoPackage says that a suite has no package of a name.
type NoPackage struct{ Package, Suite, Arch, Nearest string }

func (e *NoPackage) Error() string {
	s := fmt.Sprintf("package %s in Debian %s: there is none for %s", e.Package, e.Suite, e.Arch)
	if e.Nearest != "" {
		s += fmt.Sprintf("; did you mean %s?", e.Nearest)
	}
	return s
}

// noPackage is a *NoPackage if the suite's list does not have the package, and nil otherwise, also when the list cannot
// be read.
func (a *Apt) noPackage(ctx context.Context, suite, arch, pkg string) error {
	r, _, err := a.Index(ctx, Section{Suite: suite}, arch)
	if err != nil {
		return nil
	}
	defer r.Close() // only read from
	x := debian.NewIndex(arch)
	if err := x.Read(r, debian.Source{}); err != nil || x.Find(pkg) != nil {
		return nil
	}
	return &NoPackage{pkg, suite, arch, x.Nearest(pkg)}
}

// parseShow reads one stanza of apt-cache show.
func parseShow(out []byte) (*Found, error) {
	field := map[string]string{}
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if sc.Text() == "" {
			break
		}
		if k, v, ok := strings.Cut(sc.Text(), ": "); ok && !strings.HasPrefix(k, " ") {
			field[k] = v
		}
	}
	d, err := digest.Parse("sha256:" + field["SHA256"])
	if err != nil {
		return nil, fmt.Errorf("apt-cache show: no SHA256: %w", err)
	}
	size, err := strconv.ParseInt(field["Size"], 10, 64)
	if err != nil {
		return nil, fmt.Errorf("apt-cache show: size %q", field["Size"])
	}
	return &Found{Digest: d, Size: size, Package: lock.Package{
		Name: field["Package"], Version: field["Version"], Arch: field["Architecture"], Filename: field["Filename"],
	}}, nil
}

// ErrGone says that the archive no longer has the locked version.
var ErrGone = errors.New("the archive no longer has this version")

// Fetch downloads a locked package into dir and returns the file. Its digest is the caller's to check. arch is dpkg's
// name of the guest.
func (a *Apt) Fetch(ctx context.Context, p lock.Package, arch, dir string) (string, error) {
	w, err := a.world(ctx, sectionOf(p), arch)
	if err != nil {
		return "", err
	}
	get := func() error {
		cmd := w.command(ctx, "apt-get", "download", p.Name+"="+p.Version)
		cmd.Dir = dir
		return w.finish(cmd)
	}
	err = get()
	if err != nil && ctx.Err() == nil {
		// The lists may be older than the lock, or not there at all.
		if uerr := w.update(ctx); uerr != nil {
			return "", uerr
		}
		if err = get(); err != nil && strings.Contains(err.Error(), "was not found") {
			err = fmt.Errorf("%s %s in Debian %s: %w", p.Name, p.Version, p.Suite, ErrGone)
		}
	}
	if err != nil {
		return "", err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s left %d files", p.Name, len(debs))
	}
	return debs[0], nil
}

// world is a private apt for one section and architecture.
type world struct {
	dir     string
	options []string
	env     []string
}

func (a *Apt) world(ctx context.Context, s Section, arch string) (*world, error) {
	for _, w := range []string{s.Suite, s.component()} {
		if err := oneWord(w); err != nil {
			return nil, err
		}
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		//lint:ignore ST1005 a name begins the sentence
		return nil, fmt.Errorf("Debian's archive is reached through apt-get, which this host lacks: %w",
			err)
	}
	name := s.Suite + "-" + arch
	if s.component() != mainComponent {
		name += "-" + s.Component
	}
	dir, err := filepath.Abs(filepath.Join(a.Dir, name))
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	uri, signed := a.Sources, ""
	if beside, ok := besideArchive(uri); ok && isSecurity(s.Suite) {
		uri = beside
	}
	if uri == "" {
		if uri, err = hostArchive(ctx, a.Env, s.Suite); err != nil {
			return nil, err
		}
		signed = " [signed-by=" + keyring + "]"
	}
	list := fmt.Sprintf("deb%s %s %s %s\n", signed, uri, s.Suite, s.component())
	for name, data := range map[string]string{"sources.list": list, "status": ""} {
		p := filepath.Join(dir, name)
		if old, err := os.ReadFile(p); err == nil && string(old) == data {
			continue
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			return nil, err
		}
	}
	w := &world{dir: dir, env: a.Env, options: []string{
		"Dir::State=" + filepath.Join(dir, "state"),
		// Each by itself: a host's settings of these win over what is said of the folder above.
		"Dir::State::lists=" + filepath.Join(dir, "state/lists"),
		"Dir::Cache::archives=" + filepath.Join(dir, "cache/archives"),
		"Dir::State::status=" + filepath.Join(dir, "status"),
		"Dir::Cache=" + filepath.Join(dir, "cache"),
		"Dir::Etc::sourcelist=" + filepath.Join(dir, "sources.list"),
		"Dir::Etc::sourceparts=" + filepath.Join(dir, "parts"),
		"Dir::Etc::preferences=/dev/null",
		"Dir::Etc::preferencesparts=" + filepath.Join(dir, "parts"),
		"APT::Architecture=" + arch,
		"APT::Architectures=" + arch,
		"APT::Sandbox::User=",
		"Acquire::Languages=none",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
		"Acquire::Retries=3",
		"Dpkg::Use-Pty=0",
	}}
	w.options = append(w.options, a.Options...)
	return w, nil
}

// hostSuite is a suite that the host's own apt knows, and the address of its archive.
type hostSuite struct{ uri, suite string }

// releaseURI is a line of `apt-get update --print-uris` for a release file: 'URI/dists/SUITE/InRelease' FILE SIZE.
var releaseURI = regexp.MustCompile(`(?m)^'(.+)/dists/(.+)/(?:In)?Release(?:\.gpg)?' `)

// hostArchive finds the address of Debian's archive for a suite among the host's own sources. It asks apt what an
// update would fetch, which works without any package lists, in whatever form the sources are written.
func hostArchive(ctx context.Context, env []string, suite string) (string, error) {
	cmd := exec.CommandContext(ctx, "apt-get", "update", "--print-uris")
	cmd.Env = append(slices.Clone(env), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("the host's apt sources: %w", err)
	}
	var host []hostSuite
	for _, m := range releaseURI.FindAllStringSubmatch(string(out), -1) {
		host = append(host, hostSuite{m[1], m[2]})
	}
	if uri := pickArchive(host, suite); uri != "" {
		return uri, nil
	}
	return "", &NoArchive{Suite: suite}
}

// NoArchive says that the host's apt does not know where Debian's archive is.
type NoArchive struct{ Suite string }

func (e *NoArchive) Error() string {
	return "none of the host's apt sources is Debian's archive with " + e.Suite
}

// releases are names of Debian's releases: an archive under another name than Debian's that has one of them is taken
// for a mirror of it. Its signature says in the end whether it is.
var releases = []string{
	"oldstable", "stable", "testing", "unstable", "sid", "experimental", "bullseye", "bookworm", "trixie", "forky",
	"duke",
}

// pickArchive prefers the archive that has the suite already, then one under Debian's own name, then any with a release
// of Debian's. Security updates, which have an archive of their own, are looked for beside the archive where the host
// names none.
func pickArchive(host []hostSuite, suite string) string {
	security := isSecurity(suite)
	want := archiveName
	if security {
		want = securityName
	}
	named := func(h hostSuite) bool { return path.Base(strings.TrimRight(h.uri, "/")) == want }
	release := func(h hostSuite) bool {
		name, _, _ := strings.Cut(strings.ReplaceAll(h.suite, "/", "-"), "-")
		return slices.Contains(releases, name) && isSecurity(h.suite) == security
	}
	for _, fits := range []func(hostSuite) bool{
		func(h hostSuite) bool { return h.suite == suite && named(h) }, named,
		func(h hostSuite) bool { return h.suite == suite && release(h) }, release,
	} {
		if i := slices.IndexFunc(host, fits); i >= 0 {
			return host[i].uri
		}
	}
	if !security {
		return ""
	}
	beside, ok := besideArchive(pickArchive(host, strings.TrimSuffix(strings.TrimSuffix(suite, "-security"),
		"/updates")))
	if !ok {
		return ""
	}
	return beside
}

func (w *world) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	var full []string
	for _, o := range w.options {
		full = append(full, "-o", o)
	}
	cmd := exec.CommandContext(ctx, name, append(full, args...)...)
	cmd.Env = append(slices.Clone(w.env), "LC_ALL=C")
	cmd.Dir = w.dir
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (w *world) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := w.command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := w.finish(cmd)
	return out.Bytes(), err
}

// finish runs cmd and makes apt's own error lines the error.
func (w *world) finish(cmd *exec.Cmd) error {
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err := cmd.Run()
	if err == nil {
		return nil
	}
	var said []string
	for line := range strings.SplitSeq(errs.String(), "\n") {
		if m, ok := strings.CutPrefix(line, "E: "); ok {
			said = append(said, m)
		}
	}
	if len(said) == 0 {
		said = []string{strings.TrimSpace(errs.String())}
	}
	return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.Join(said, "; "))
}

// update fetches the suite's lists. apt checks their signature.
func (w *world) update(ctx context.Context) error {
	_, err := w.run(ctx, "apt-get", "update", "--error-on=any")
	if err == nil {
		return nil
	}
	// A host's hooks after an update may need root and fail; what counts is that there are signed lists now.
	if _, derr := w.release(); derr == nil && strings.Contains(err.Error(), "Invoke") {
		return nil
	}
	//lint:ignore ST1005 a name begins the sentence
	return fmt.Errorf("Debian's package lists: %w", err)
}

// release reads the suite's release file among the lists.
func (w *world) release() (Release, error) {
	files, err := filepath.Glob(filepath.Join(w.dir, "state/lists/*_InRelease"))
	if err != nil || len(files) == 0 {
		return Release{}, fmt.Errorf("no release file below %s: %w", w.dir, fs.ErrNotExist)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return Release{}, err
	}
	// apt has checked the signature around it.
	rel, err := parseRelease(data)
	if err != nil {
		return Release{}, fmt.Errorf("release file %s: %w", files[0], err)
	}
	return rel.Release, nil
}
