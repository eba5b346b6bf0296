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
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/digest"
)

// Apt reaches Debian's archive through the host's apt-get: its mirrors, proxies and keys, but with state folders of our own, so it needs no
// root, changes nothing on the host, and works for any suite and architecture the mirror has.
type Apt struct {
	// Dir keeps package lists between runs.
	Dir string
	// Sources, when not empty, is the address of an archive to use instead of the host's: a sources.list URI.
	Sources string
	// Options are further `-o` settings of apt-get, such as a keyring for Sources.
	Options []string
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
	w, err := a.world(ctx, suite, arch)
	if err != nil {
		return nil, err
	}
	if err := w.update(ctx); err != nil {
		return nil, err
	}
	out, err := w.run(ctx, "apt-cache", "show", "--no-all-versions", pkg)
	if err != nil {
		return nil, fmt.Errorf("package %s in Debian %s: %w", pkg, suite, err)
	}
	f, err := parseShow(out)
	if err != nil {
		return nil, fmt.Errorf("package %s in Debian %s: %w", pkg, suite, err)
	}
	f.Package.Suite = suite
	f.Date, err = w.releaseDate()
	return f, err
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
var ErrGone = errors.New("the archive no longer has this version; `katabuild lock --update` takes the present one")

// Fetch downloads a locked package into dir and returns the file. Its digest is the caller's to check. arch is dpkg's name of the guest.
func (a *Apt) Fetch(ctx context.Context, p lock.Package, arch, dir string) (string, error) {
	w, err := a.world(ctx, p.Suite, arch)
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

// world is a private apt for one suite and architecture.
type world struct {
	dir     string
	options []string
}

func (a *Apt) world(ctx context.Context, suite, arch string) (*world, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, fmt.Errorf("Debian's archive is reached through apt-get, which this host lacks: %w", err) //nolint:staticcheck // a name begins the sentence
	}
	dir, err := filepath.Abs(filepath.Join(a.Dir, suite+"-"+arch))
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "parts"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	uri, signed := a.Sources, ""
	if uri == "" {
		if uri, err = hostArchive(ctx); err != nil {
			return nil, err
		}
		signed = " [signed-by=" + keyring + "]"
	}
	list := fmt.Sprintf("deb%s %s %s main\n", signed, uri, suite)
	for name, data := range map[string]string{"sources.list": list, "status": ""} {
		p := filepath.Join(dir, name)
		if old, err := os.ReadFile(p); err == nil && string(old) == data {
			continue
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			return nil, err
		}
	}
	w := &world{dir: dir, options: []string{
		"Dir::State=" + filepath.Join(dir, "state"),
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

// hostArchive finds the address of Debian's archive among the host's own sources.
func hostArchive(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(CREATED_BY) $(REPO_URI) $(COMPONENT)").Output()
	if err != nil {
		return "", fmt.Errorf("the host's apt sources: %w", err)
	}
	if uri := pickArchive(string(out)); uri != "" {
		return uri, nil
	}
	return "", errors.New("none of the host's apt sources is Debian's archive (an address that ends in /debian); add one, or use a tarball as source")
}

// pickArchive prefers the first main archive: mirrors keep Debian's own folder name.
func pickArchive(targets string) string {
	for line := range strings.SplitSeq(targets, "\n") {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "Packages" && f[2] == "main" && strings.HasSuffix(strings.TrimRight(f[1], "/"), "/debian") {
			return f[1]
		}
	}
	return ""
}

func (w *world) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	var full []string
	for _, o := range w.options {
		full = append(full, "-o", o)
	}
	cmd := exec.CommandContext(ctx, name, append(full, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
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
	if _, derr := w.releaseDate(); derr == nil && strings.Contains(err.Error(), "Invoke") {
		return nil
	}
	return fmt.Errorf("Debian's package lists: %w", err) //nolint:staticcheck // a name begins the sentence
}

func (w *world) releaseDate() (time.Time, error) {
	files, err := filepath.Glob(filepath.Join(w.dir, "state/lists/*_InRelease"))
	if err != nil || len(files) == 0 {
		return time.Time{}, fmt.Errorf("no release file below %s: %w", w.dir, fs.ErrNotExist)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if v, ok := strings.CutPrefix(line, "Date: "); ok {
			return time.Parse(time.RFC1123, v)
		}
	}
	return time.Time{}, fmt.Errorf("release file %s has no date", files[0])
}
