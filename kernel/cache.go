package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/jail"
	"github.com/katabuild/katabuild/internal/objcache"
	"github.com/katabuild/katabuild/internal/progress"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/kernel/makelog"
	"github.com/katabuild/katabuild/kernel/source"
)

// ObjectCache is where compiled objects are kept between builds. It decides no byte. The zero value keeps none.
type ObjectCache struct {
	Dir     string // a folder that no other user can write to, made when missing
	Program string // the executable katabuild-cc
	// Tree names the folder of a source.Tree source, which is edited all the time: what its builds keep, no build of
	// another name uses.
	Tree string
}

// maxLevels bounds how many trees' objects a build reads.
const maxLevels = 8

// levels names the folders of objects that a build uses: its own, which it may write to, then those of the trees that
// it is made of by patches, the last one first. Programs of a tree can write to its own folder alone, so that no tree
// can foist objects on another that does not hold its patches.
func (r Request) levels() []string {
	h := sha256.New()
	what := string(r.SourceDigest)
	if r.SourceKind == source.Tree {
		what = r.ObjectCache.Tree
	}
	fmt.Fprintf(h, "%q %q %q %q\n", "objects of a tree 1", r.Arch.Name, r.SourceKind, what)
	for _, t := range r.Toolchain.Identity() {
		fmt.Fprintf(h, "%q %q %q\n", t.Name, t.Version, t.Digest)
	}
	all := []string{hex.EncodeToString(h.Sum(nil))}
	for _, p := range r.Patches {
		next := sha256.Sum256(fmt.Appendf(nil, "%q %q\n", all[len(all)-1], digest.Of(p.Data)))
		all = append(all, hex.EncodeToString(next[:]))
	}
	slices.Reverse(all)
	return all[:min(len(all), maxLevels)]
}

// Names of the cache's parts, below WorkDir and below guestDir.
const (
	compilersName = "compilers" // holds a link to ccName by the name of each compiler
	ccName        = "katabuild-cc"
	levelsName    = "levels"
	reportsName   = "reports"
	reportName    = "objects"
)

// maxReport bounds the report that is read of a build, in bytes.
const maxReport = 64 << 20

// compilers are the names under which makefiles call compilers.
func (r Request) compilers() []string {
	all := []string{"gcc", "clang"}
	if p := r.Toolchain.Prefix; p != "" {
		all = append(all, p+"gcc", p+"clang")
	}
	return all
}

// openCache prepares a make with the cache: what the jail must show besides, and what must stand before make's command
// line. An error means to go without.
func (b *build) openCache(now time.Time) (binds []jail.Bind, argv []string, err error) {
	c := b.ObjectCache
	if c.Dir == "" {
		return nil, nil, nil
	}
	if _, err := os.Stat(c.Program); err != nil {
		return nil, nil, err
	}
	compilers, reports := filepath.Join(b.WorkDir, compilersName), filepath.Join(b.WorkDir, reportsName)
	for _, d := range []string{compilers, reports} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, nil, err
		}
	}
	for _, name := range b.compilers() {
		if err := os.Symlink(guestDir+"/"+ccName, filepath.Join(compilers, name)); err != nil {
			return nil, nil, err
		}
	}
	binds = []jail.Bind{{Host: c.Program, Jail: guestDir + "/" + ccName},
		{Host: compilers, Jail: guestDir + "/" + compilersName},
		{Host: reports, Jail: guestDir + "/" + reportsName, Writable: true}}
	argv = []string{guestDir + "/" + ccName, guestDir + "/" + compilersName,
		guestDir + "/" + reportsName + "/" + reportName}
	for i, l := range b.levels() {
		host, in := filepath.Join(c.Dir, l), fmt.Sprintf("%s/%s/%d", guestDir, levelsName, i)
		if i == 0 {
			if err := os.MkdirAll(host, 0o755); err != nil {
				return nil, nil, err
			}
		}
		if os.Chtimes(host, now, now) != nil { // for objcache.Trim; a tree that has none yet is not there
			continue
		}
		binds = append(binds, jail.Bind{Host: host, Jail: in, Writable: i == 0})
		argv = append(argv, in)
	}
	return binds, append(argv, "--"), nil
}

// readReport lists what the cache's programs say that they compiled or found.
func (b *build) readReport() []makelog.Compiled {
	d, err := regular.OpenFolder(filepath.Join(b.WorkDir, reportsName))
	if err != nil {
		return nil
	}
	defer d.Close()
	data, err := d.ReadFile(reportName, maxReport)
	if err != nil {
		return nil
	}
	var all []makelog.Compiled
	for _, o := range objcache.ReadReport(bytes.NewReader(data)) {
		all = append(all, makelog.Compiled{Object: strings.TrimPrefix(o.Name, guestDir+"/"+treeName+"/"),
			Cached: o.Cached, CPU: o.CPU, Bytes: o.Bytes})
	}
	return all
}

// makeCached runs the make that compiles.
func (b *build) makeCached(ctx context.Context, res *Result, targets ...string) (err error) {
	if b.cacheBinds, b.cacheArgs, err = b.openCache(time.Now()); err != nil {
		b.Progress.Send(progress.Event{Step: step, Kind: progress.Log,
			Message: fmt.Sprintf("no cache of objects: %v", err)})
	}
	err = b.make(ctx, targets...)
	b.cacheBinds, b.cacheArgs = nil, nil
	if err != nil || b.ObjectCache.Dir == "" {
		return err
	}
	res.Compiled = b.readReport()
	slices.SortFunc(res.Compiled, func(a, b makelog.Compiled) int { return strings.Compare(a.Object, b.Object) })
	if b.Log != nil {
		fmt.Fprintln(b.Log, makelog.Headline(b.release))
		for _, c := range res.Compiled {
			fmt.Fprintln(b.Log, c)
		}
	}
	b.Progress.Send(progress.Event{Step: step, Kind: progress.Log,
		Message: fmt.Sprintf("%d of %d objects from the cache", res.Cached(), len(res.Compiled))})
	return nil
}
