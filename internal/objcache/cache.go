package objcache

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// cache looks objects up and keeps them. Several goroutines use it.
type cache struct {
	tree   *tree
	levels []level // the first may be written to
}

// call is one call of a compiler.
type call struct {
	command
	key sum
	dir string // absolute
}

// newCall reads a call; ok says whether it is one whose object can be kept.
func newCall(compiler, dir string, env, args []string) (c call, ok bool) {
	cmd, ok := parse(compiler, args)
	if !ok || !strings.HasPrefix(dir, "/") {
		return call{}, false
	}
	return call{cmd, keyOf(compiler, dir, env, args), dir}, true
}

// path is where a file lies that the compiler calls name.
func (c *call) path(name string) string {
	if strings.HasPrefix(name, "/") {
		return name
	}
	return c.dir + "/" + name
}

// state is what the files that an object is made from hold now.
type state struct {
	sums   []sum
	texts  []*text
	config sum
	newest time.Time // when one of them was changed last
}

// look reads the files; want, which may be nil, are what they must hold for the caller to go on.
func (s *cache) look(c *call, deps []string, want []sum) (*state, bool) {
	now := &state{sums: make([]sum, len(deps)), texts: make([]*text, len(deps), len(deps)+1)}
	var values map[string]string
	for i, d := range deps {
		f := s.tree.file(c.path(d))
		if f == nil || f.text.refused {
			return nil, false
		}
		if f.config != nil && isAutoconf(d) && !c.wholeConfig {
			values, now.texts[i] = f.config, &text{} // what it names is not what anybody asks for
		} else {
			now.sums[i], now.texts[i] = f.sum, f.text
		}
		if want != nil && want[i] != now.sums[i] {
			return nil, false
		}
		if t := f.stamp.changed(); t.After(now.newest) {
			now.newest = t
		}
	}
	line := &text{}
	line.scanOptions([]byte(strings.Join(c.args, "\n")))
	assembled, ok := s.assembled(c, now)
	now.config = configOf(values, append(now.texts, line), assembled)
	return now, ok && !line.refused
}

// assembled says what the assembler's own includes lead to, for configOf: it looks in the working folder, then where
// the compiler looks, and no dependency file lists what it finds.
func (s *cache) assembled(c *call, now *state) (facts []string, ok bool) {
	var names []string
	for _, t := range now.texts {
		names = append(names, t.assembled...)
	}
	for i := 0; i < len(names); i++ {
		if slices.Contains(names[:i], names[i]) {
			continue
		}
		if strings.HasPrefix(names[i], "/") || len(names) > maxDeps {
			return nil, false
		}
		for _, dir := range append([]string{"."}, c.search...) {
			p := dir + "/" + names[i]
			f := s.tree.file(c.path(p))
			if f == nil {
				if s.tree.view().exists(c.path(p)) {
					return nil, false
				}
				continue
			}
			if f.text.refused {
				return nil, false
			}
			facts = append(facts, fmt.Sprintf("%q %x", p, f.sum))
			names = append(names, f.text.assembled...)
			if t := f.stamp.changed(); t.After(now.newest) {
				now.newest = t
			}
			break
		}
	}
	return facts, true
}

// present lists the rivals of an object's files that are there.
func (s *cache) present(c *call, deps []string, now *state) []string {
	v := s.tree.view()
	return slices.DeleteFunc(c.rivals(deps, now.texts), func(p string) bool { return !v.exists(c.path(p)) })
}

// fits says whether the compiler would make an entry's object now.
func (s *cache) fits(c *call, e *entry) bool {
	deps, ok := parseDepfile(e.depfile)
	if !ok || len(deps) != len(e.sums) {
		return false
	}
	now, ok := s.look(c, deps, e.sums)
	return ok && now.config == e.config && slices.Equal(s.present(c, deps, now), e.present)
}

// restore puts the object of a call and its dependency file in place, if the cache has them.
func (s *cache) restore(c *call) (e *entry, object []byte, ok bool) {
	for _, l := range s.levels {
		for _, e := range l.candidates(c.key) {
			if !s.fits(c, e.entry) {
				continue
			}
			object, ok := l.object(e.entry)
			if !ok {
				l.remove(e.path)
				continue
			}
			if place(c.path(c.object), object) != nil || place(c.path(c.depfile), e.depfile) != nil {
				return nil, nil, false // the compiler will say what is wrong there
			}
			l.used(e)
			return e.entry, object, true
		}
	}
	return nil, nil, false
}

// place makes a file anew, as a compiler does.
func place(path string, data []byte) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// made is what a compiler has just made.
type made struct {
	object, depfile []byte
}

// take reads what a compiler has left, before anything else changes it.
func (s *cache) take(c *call) (m made, err error) {
	if m.object, _, err = readFile(c.path(c.object), maxObject); err != nil {
		return m, err
	}
	m.depfile, _, err = readFile(c.path(c.depfile), maxEntry)
	return m, err
}

// keep keeps what a call made that began at start, said message, and took cpu microseconds. Not kept is what it made
// of files that changed meanwhile, or that cannot be told.
func (s *cache) keep(c *call, m made, message []byte, cpu uint64, start time.Time) (kept bool) {
	if len(s.levels) == 0 || !s.levels[0].writable || len(message) > maxMessage {
		return false
	}
	deps, ok := parseDepfile(m.depfile)
	if !ok {
		return false
	}
	now, ok := s.look(c, deps, nil)
	if !ok || start.Sub(now.newest) <= settled {
		return false
	}
	e := &entry{key: c.key, cpu: cpu, message: message, depfile: m.depfile, sums: now.sums, config: now.config,
		present: s.present(c, deps, now)}
	return s.levels[0].put(e, m.object) == nil
}
