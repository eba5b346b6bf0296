package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/builder/lock"
	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/httpclient"
	"github.com/katabuild/katabuild/rootfs/compression"
	"github.com/katabuild/katabuild/rootfs/debian"
)

// HTTP reaches an archive without apt: it checks the suite's InRelease against a keyring, the package lists against
// InRelease, and remembers the newest date it has seen, so that nobody can pass off an older archive.
type HTTP struct {
	// Base is the archive's address, above "dists" and "pool".
	Base string
	// Security is the address of the archive of security updates; empty is debian-security beside a Base that ends in
	// debian, else Base itself.
	Security string
	// Keyring is a file of OpenPGP keys, binary or armoured; empty is that of the host's package
	// debian-archive-keyring. Keys, if there are any, are the bytes of such a file, and count instead.
	Keyring string
	Keys    []byte
	// Dir keeps package lists, and the newest date of each suite, between runs.
	Dir string
	// Client makes requests; nil is one with deadlines. Whatever it says, redirects never lead to another scheme.
	Client *http.Client
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// What is wrong with a release file whose signature is good.
var (
	errExpired = errors.New("the release file is no longer valid")
	errOlder   = errors.New("the release file is older than one seen before")
)

// Bounds of what an archive may send, in bytes. Debian's InRelease has 140 KB, its lists of packages have 10 MB,
// unpacked 60.
const (
	maxRelease = 16 << 20
	maxLists   = 1 << 30
	maxPackage = 8 << 30
)

// clockSkew is by how much a release file may come from the future.
const clockSkew = 24 * time.Hour

// errNotFound says that the server has no such file.
var errNotFound = errors.New("not found")

// Resolve implements Archive.
func (h *HTTP) Resolve(ctx context.Context, suite, arch, pkg string) (*Found, error) {
	r, rel, err := h.Index(ctx, Section{Suite: suite}, arch)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	x := debian.NewIndex(arch)
	if err := x.Read(r, debian.Source{}); err != nil {
		return nil, err
	}
	p := x.Find(pkg)
	if p == nil {
		return nil, &NoPackage{pkg, suite, arch, x.Nearest(pkg)}
	}
	return &Found{Digest: p.Digest, Size: p.Size, Date: rel.Date,
		Package: lock.Package{Suite: suite, Name: p.Name, Version: string(p.Version), Arch: p.Arch,
			Filename: p.Filename}}, nil
}

// Index implements Archive.
func (h *HTTP) Index(ctx context.Context, s Section, arch string) (io.ReadCloser, Release, error) {
	if err := checkSuite(s.Suite); err != nil {
		return nil, Release{}, err
	}
	if err := oneWord(s.component()); err != nil {
		return nil, Release{}, err
	}
	rel, err := h.release(ctx, s.Suite)
	if err != nil {
		return nil, Release{}, fmt.Errorf("release file of %s at %s: %w", s.Suite, h.base(s.Suite), err)
	}
	name := s.component() + "/binary-" + arch + "/Packages"
	if isFlat(s.Suite) {
		name = "Packages"
	}
	plain, ok := rel.files[name]
	if !ok {
		return nil, Release{}, fmt.Errorf("%s at %s has no packages for %s", s, h.base(s.Suite), arch)
	}
	for _, ext := range []string{".xz", ".gz", ""} {
		f, ok := rel.files[name+ext]
		if !ok {
			continue
		}
		if f.size > maxLists || plain.size > maxLists {
			return nil, Release{}, fmt.Errorf("%s of %d bytes: want at most %d", name+ext, f.size, maxLists)
		}
		file, err := h.list(ctx, s.Suite, name+ext, f, rel.byHash)
		if errors.Is(err, errNotFound) {
			continue // an archive need not have every file that it lists
		}
		if err != nil {
			return nil, Release{}, err
		}
		r, err := openChecked(file, plain)
		return r, rel.Release, err
	}
	return nil, Release{}, fmt.Errorf("%s of %s at %s: %w", name, s.Suite, h.base(s.Suite), errNotFound)
}

// base is the address of the archive that has a suite.
func (h *HTTP) base(suite string) string {
	switch beside, ok := besideArchive(h.Base); {
	case !isSecurity(suite):
		return h.Base
	case h.Security != "":
		return h.Security
	case ok:
		return beside
	}
	return h.Base
}

// isFlat says whether a suite is the path of a folder that has a list and packages itself. sources.list(5): such a path
// ends in a slash.
func isFlat(suite string) bool { return strings.HasSuffix(suite, "/") }

// below is the folder of a suite's release file and lists, below the archive's address.
func below(suite string) string {
	if isFlat(suite) {
		return path.Clean(suite)
	}
	return "dists/" + suite
}

// checkSuite keeps a suite's name to what cannot climb out of a path.
func checkSuite(suite string) error {
	for i, w := range strings.Split(strings.TrimSuffix(suite, "/"), "/") {
		if i == 0 && w == "." && isFlat(suite) {
			continue
		}
		if err := oneWord(w); err != nil {
			return fmt.Errorf("%q is no name of a suite", suite)
		}
	}
	return nil
}

// release fetches and checks a suite's InRelease.
func (h *HTTP) release(ctx context.Context, suite string) (*release, error) {
	keys := h.Keys
	if len(keys) == 0 {
		var err error
		if keys, err = os.ReadFile(cmp.Or(h.Keyring, keyring)); err != nil {
			return nil, fmt.Errorf("keyring: %w", err)
		}
	}
	body, err := h.get(ctx, suite, path.Join(below(suite), "InRelease"))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxRelease+1))
	if err == nil && len(data) > maxRelease {
		err = fmt.Errorf("more than %d bytes", maxRelease)
	}
	if err != nil {
		return nil, err
	}
	now := time.Now()
	if h.Now != nil {
		now = h.Now()
	}
	signed, err := verifyClear(data, keys, now)
	if err != nil {
		return nil, err
	}
	rel, err := parseRelease(signed)
	if err != nil {
		return nil, err
	}
	switch {
	case !isFlat(suite) && !slices.Contains(rel.names, suite):
		return nil, fmt.Errorf("it is of %s", strings.Join(rel.names, ", "))
	case !rel.validUntil.IsZero() && now.After(rel.validUntil):
		return nil, fmt.Errorf("%w, since %s", errExpired, rel.validUntil.Format(time.RFC3339))
	case rel.Date.After(now.Add(clockSkew)):
		return nil, fmt.Errorf("it is of %s, which is yet to come: does the clock go wrong?",
			rel.Date.Format(time.RFC3339))
	}
	return rel, h.remember(suite, rel.Date)
}

// remember refuses a date older than the newest seen, and keeps a newer one.
func (h *HTTP) remember(suite string, date time.Time) error {
	p := filepath.Join(h.Dir, strings.ReplaceAll(strings.TrimSuffix(suite, "/"), "/", "_")+".date")
	old, err := os.ReadFile(p)
	if err == nil {
		seen, err := time.Parse(time.RFC3339, strings.TrimSpace(string(old)))
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", p, err)
		case date.Before(seen):
			return fmt.Errorf("%w: it is of %s, and one of %s was there", errOlder, date.Format(time.RFC3339),
				seen.Format(time.RFC3339))
		case date.Equal(seen):
			return nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(h.Dir, 0o755); err != nil {
		return err
	}
	return atomicfile.Write(p, []byte(date.UTC().Format(time.RFC3339)+"\n"), 0o644)
}

// list is a checked package list as a file, from the last run or from the archive.
func (h *HTTP) list(ctx context.Context, suite, name string, want listed, byHash bool) (string, error) {
	file := filepath.Join(h.Dir, want.digest.Hex())
	if digest.Check(file, want.digest) == nil {
		return file, nil
	}
	addrs := []string{path.Join(below(suite), name)}
	if byHash {
		// Under its digest a list stays for a while when the archive changes meanwhile.
		addrs = []string{path.Join(below(suite), path.Dir(name), "by-hash/SHA256", want.digest.Hex()), addrs[0]}
	}
	var err error
	for _, addr := range addrs {
		if err = h.download(ctx, suite, addr, file, want.size); err == nil {
			return file, digest.Check(file, want.digest)
		}
		if !errors.Is(err, errNotFound) {
			break
		}
	}
	return "", err
}

// openChecked opens a list without its compression; its end is an error if it was not the signed one.
func openChecked(file string, want listed) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	plain, err := compression.Plain(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
	}
	return &checked{name: file, plain: plain, file: f, sum: digest.New(), want: want}, nil
}

type checked struct {
	name  string
	plain io.ReadCloser
	file  *os.File
	sum   *digest.Writer
	n     int64
	want  listed
}

func (c *checked) Read(b []byte) (int, error) {
	n, err := c.plain.Read(b)
	_, _ = c.sum.Write(b[:n]) // never fails
	c.n += int64(n)
	switch {
	case c.n > c.want.size:
		return 0, fmt.Errorf("%s: more than the %d bytes that were signed", c.name, c.want.size)
	case err == io.EOF && c.sum.Digest() != c.want.digest:
		err = &digest.Mismatch{Name: c.name, Want: c.want.digest, Got: c.sum.Digest()}
	}
	return n, err
}

func (c *checked) Close() error { return errors.Join(c.plain.Close(), c.file.Close()) }

// Fetch implements Archive.
func (h *HTTP) Fetch(ctx context.Context, p lock.Package, _, dir string) (string, error) {
	file := filepath.Join(dir, path.Base(p.Filename))
	err := h.download(ctx, p.Suite, p.Filename, file, maxPackage)
	if errors.Is(err, errNotFound) {
		err = fmt.Errorf("%s %s in Debian %s: %w", p.Name, p.Version, p.Suite, ErrGone)
	}
	return file, err
}

// FetchAll implements Archive.
func (h *HTTP) FetchAll(ctx context.Context, _ Section, list []lock.Package, arch, dir string) error {
	var errs []error
	for _, p := range list {
		if _, err := h.Fetch(ctx, p, arch, dir); err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// download puts at most limit bytes at a path below a suite's archive into a file, whole or not at all.
func (h *HTTP) download(ctx context.Context, suite, below, file string, limit int64) error {
	body, err := h.get(ctx, suite, below)
	if err != nil {
		return err
	}
	defer body.Close()
	return atomicfile.With(file, 0o644, func(w io.Writer) error {
		n, err := io.Copy(w, io.LimitReader(body, limit+1))
		if err == nil && n > limit {
			err = fmt.Errorf("more than %d bytes", limit)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", below, err)
		}
		return nil
	})
}

// get begins to read what is at a path below a suite's archive. A missing one is errNotFound.
func (h *HTTP) get(ctx context.Context, suite, below string) (io.ReadCloser, error) {
	if !fs.ValidPath(below) {
		return nil, fmt.Errorf("path %q is none below an archive", below)
	}
	base, err := url.Parse(h.base(suite))
	if err != nil || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("address %q: want http:// or https://", h.base(suite))
	}
	addr := base.JoinPath(below).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addr, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // a .gz is to arrive as it is
	resp, err := httpclient.New(h.Client).Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Body, nil
	case http.StatusNotFound, http.StatusGone:
		err = errNotFound
	default:
		err = errors.New(resp.Status)
	}
	return nil, errors.Join(fmt.Errorf("%s: %w", addr, err), resp.Body.Close())
}

// oneWord keeps a suite's name to what cannot climb out of a path.
func oneWord(s string) error {
	if s == "" || s[0] == '.' || strings.Trim(
		s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		return fmt.Errorf("%q is no name of a suite or component", s)
	}
	return nil
}
