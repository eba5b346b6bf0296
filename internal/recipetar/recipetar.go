// Package recipetar keeps a recipe, and what it names beside it, in one file, so that whoever has that file and the
// lock can build the guest.
//
// The file is a tar of one form: the same files make the same bytes, whoever owns them. It may come from a network, so
// that nothing in it can leave the folder that it is put into. docs/formats/recipe-tar.md owns the bytes.
package recipetar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/checkout"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/regular"
)

// FileName is the file's name beside the manifest of a guest.
const FileName = "guest.recipe.tar"

// MaxSize bounds what is packed and what is read, in bytes.
const MaxSize = 16 << 20

// maxEntries bounds how many files, folders and links there may be.
const maxEntries = 10_000

// The recipe's own place in the file: what it names lies relative to it. A recipe that names ../x lies one folder
// deeper, and so on.
const (
	folderName = "recipe"
	above      = "above"
	recipeName = "recipe.yaml"
)

// maxAbove is how often a path beside the recipe may lead upwards.
const maxAbove = 8

// Part is something that a recipe names by a path relative to it.
type Part struct {
	Where  string // with slashes
	Folder bool   // of which counts what counts of a checkout
}

// ErrTooBig is that a recipe has more beside it than the file may hold.
var ErrTooBig = fmt.Errorf("more than %d bytes or %d files", MaxSize, maxEntries)

// Pack packs a recipe, whose text is given, with its parts, which lie relative to dir.
func Pack(ctx context.Context, recipe []byte, dir string, parts []Part) ([]byte, error) {
	p := &packer{entries: map[string]*entry{}}
	at := home(parts)
	p.add(path.Join(at, recipeName), &entry{data: recipe})
	for _, part := range parts {
		name := path.Join(at, filepath.ToSlash(part.Where))
		if upwards(part.Where) > maxAbove {
			return nil, fmt.Errorf("%s leads more than %d folders upwards", part.Where, maxAbove)
		}
		from := filepath.Join(dir, filepath.FromSlash(part.Where))
		if err := p.part(ctx, name, from, part.Folder); err != nil {
			return nil, fmt.Errorf("%s: %w", part.Where, err)
		}
	}
	return p.write()
}

// home is the recipe's folder in the file.
func home(parts []Part) string {
	up := 0
	for _, p := range parts {
		up = max(up, upwards(p.Where))
	}
	return strings.Repeat(above+"/", min(up, maxAbove)) + folderName
}

// upwards is how many folders a path leads upwards.
func upwards(where string) (n int) {
	for s := path.Clean(filepath.ToSlash(where)); s == ".." || strings.HasPrefix(s, "../"); n++ {
		s = strings.TrimPrefix(strings.TrimPrefix(s, ".."), "/")
	}
	return n
}

type entry struct {
	dir, executable bool
	link            string
	data            []byte
}

type packer struct {
	entries map[string]*entry
	size    int64
	twice   string // a name that two parts want for different things
}

func (p *packer) add(name string, e *entry) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if p.entries[dir] == nil {
			p.entries[dir] = &entry{dir: true}
		}
	}
	if old := p.entries[name]; old != nil && (old.dir != e.dir || old.executable != e.executable ||
		old.link != e.link || !bytes.Equal(old.data, e.data)) {
		p.twice = name
	}
	p.entries[name] = e
	p.size += int64(len(e.data))
}

func (p *packer) part(ctx context.Context, name, from string, isFolder bool) error {
	if !isFolder {
		data, err := read(from, MaxSize-p.size)
		p.add(name, &entry{data: data})
		return err
	}
	list, err := checkout.List(ctx, from)
	if err != nil {
		return err
	}
	for i := range list {
		e := &list[i]
		to := path.Join(name, e.Name)
		switch e.Kind {
		case checkout.Dir:
			p.add(to, &entry{dir: true})
		case checkout.Symlink:
			p.add(to, &entry{link: e.Target})
		default:
			data, err := read(e.Path, MaxSize-p.size)
			if err != nil {
				return err
			}
			p.add(to, &entry{data: data, executable: e.Kind == checkout.Executable})
		}
		if len(p.entries) > maxEntries {
			return ErrTooBig
		}
	}
	return ctx.Err()
}

func read(name string, limit int64) ([]byte, error) {
	data, err := regular.ReadFile(name, max(limit, 0))
	if _, big := errors.AsType[*regular.SizeError](err); big {
		return nil, ErrTooBig
	}
	return data, err
}

// epoch is the time of everything in the file.
var epoch = time.Unix(0, 0)

// header is that of an entry: nothing of the host and no time of day.
func header(name string, e *entry) *tar.Header {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(e.data)), ModTime: epoch}
	switch {
	case e.dir:
		h.Name, h.Typeflag, h.Mode = name+"/", tar.TypeDir, 0o755
	case e.link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.link, 0o777
	case e.executable:
		h.Mode = 0o755
	}
	return h
}

func (p *packer) write() ([]byte, error) {
	if p.twice != "" {
		return nil, fmt.Errorf("two parts are called %s", p.twice)
	}
	if len(p.entries) > maxEntries {
		return nil, ErrTooBig
	}
	var names []string
	for name := range p.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		e := p.entries[name]
		if dir := path.Dir(name); dir != "." && !p.entries[dir].dir {
			return nil, fmt.Errorf("%s lies in what is no folder", name)
		}
		if err := w.WriteHeader(header(name, e)); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if b.Len() > MaxSize {
		return nil, ErrTooBig
	}
	return b.Bytes(), nil
}

// decode reads the file's one form and nothing else, and finds the recipe in it.
func decode(data []byte) (p *packer, recipe string, err error) {
	if len(data) > MaxSize {
		return nil, "", fmt.Errorf("recipe in a tar: %w", ErrTooBig)
	}
	p = &packer{entries: map[string]*entry{}}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, "", fmt.Errorf("recipe in a tar: %w", err)
		}
		e := &entry{dir: h.Typeflag == tar.TypeDir, executable: h.Mode&0o100 != 0 && h.Typeflag == tar.TypeReg}
		name := h.Name
		switch h.Typeflag {
		case tar.TypeDir:
			name = strings.TrimSuffix(name, "/")
		case tar.TypeSymlink:
			e.link = h.Linkname
		}
		if !filepath.IsLocal(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) ||
			len(p.entries) > maxEntries {
			return nil, "", fmt.Errorf("recipe in a tar: the name %q leads elsewhere, or there are too many", h.Name)
		}
		if e.data, err = io.ReadAll(r); err != nil {
			return nil, "", fmt.Errorf("recipe in a tar: %s: %w", name, err)
		}
		p.add(name, e)
		at := strings.ReplaceAll(path.Dir(name), above+"/", "")
		if recipe == "" && path.Base(name) == recipeName && at == folderName {
			recipe = name
		}
	}
	if recipe == "" {
		return nil, "", errors.New("recipe in a tar: there is no recipe in it")
	}
	again, err := p.write()
	if err != nil {
		return nil, "", fmt.Errorf("recipe in a tar: %w", err)
	}
	if !bytes.Equal(again, data) {
		return nil, "", errors.New("recipe in a tar: it is not in its one form")
	}
	return p, recipe, nil
}

// Recipe is the digest of the recipe in such a file.
func Recipe(data []byte) (digest.Digest, error) {
	p, recipe, err := decode(data)
	if err != nil {
		return "", err
	}
	return digest.Of(p.entries[recipe].data), nil
}

// Unpack puts everything into an empty folder, and returns the path of the recipe.
func Unpack(data []byte, dir string) (recipe string, err error) {
	p, recipe, err := decode(data)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir) // a link in it cannot lead out
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	var names []string
	for name := range p.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, links := range []bool{false, true} { // links last: nothing is written through one
		for _, name := range names {
			e := p.entries[name]
			mode := os.FileMode(0o644)
			if e.executable {
				mode = 0o755
			}
			switch {
			case (e.link != "") != links:
			case e.dir:
				err = root.MkdirAll(name, 0o755)
			case links:
				err = root.Symlink(e.link, name)
			default:
				err = root.WriteFile(name, e.data, mode)
			}
			if err != nil {
				return "", err
			}
		}
	}
	return filepath.Join(dir, filepath.FromSlash(recipe)), nil
}
