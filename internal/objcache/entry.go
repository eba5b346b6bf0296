package objcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"slices"
	"strings"
)

// entry is one object that a command once made, and what must be so for the command to make it again.
type entry struct {
	key     sum
	object  sum    // of its bytes, which lie in a file of their own
	size    int64  // of the object
	cpu     uint64 // microseconds of processor time that making it took
	message []byte // what the compiler said
	depfile []byte // the dependency file, as it was written
	sums    []sum  // of the files that depfile lists, in its order; of the configuration, zero unless all of it counts
	config  sum    // of the values of the options that these files name
	present []string
	// present lists the rivals that were there all the same: the search list has several ways to one file.
}

// Bounds of what is read of an entry.
const (
	maxEntry   = 8 << 20
	maxMessage = 1 << 20
	maxObject  = 1 << 30
)

var errEntry = errors.New("no entry of this version")

// encode writes an entry: the version's line, the fixed fields, and then each text with its length, all numbers little
// endian and of 8 bytes.
func (e *entry) encode() []byte {
	var b []byte
	number := func(n uint64) { b = binary.LittleEndian.AppendUint64(b, n) }
	chunk := func(p []byte) {
		number(uint64(len(p)))
		b = append(b, p...)
	}
	b = append(b, version...)
	b = append(b, e.key[:]...)
	b = append(b, e.object[:]...)
	b = append(b, e.config[:]...)
	number(uint64(e.size))
	number(e.cpu)
	chunk(e.message)
	chunk(e.depfile)
	number(uint64(len(e.sums)))
	for _, s := range e.sums {
		b = append(b, s[:]...)
	}
	chunk([]byte(strings.Join(e.present, "\x00")))
	return b
}

// decodeEntry reads what encode writes, and nothing else.
func decodeEntry(data []byte) (*entry, error) {
	rest, ok := bytes.CutPrefix(data, []byte(version))
	if !ok {
		return nil, errEntry
	}
	e := &entry{}
	fail := false
	take := func(n uint64) []byte {
		if n > uint64(len(rest)) {
			fail = true
			return nil
		}
		p := rest[:n]
		rest = rest[n:]
		return p
	}
	number := func() uint64 {
		if p := take(8); !fail {
			return binary.LittleEndian.Uint64(p)
		}
		return 0
	}
	copy(e.key[:], take(sha256.Size))
	copy(e.object[:], take(sha256.Size))
	copy(e.config[:], take(sha256.Size))
	size := number()
	e.cpu = number()
	e.message = take(number())
	e.depfile = take(number())
	n := number()
	if fail || size > maxObject || n > maxDeps || len(e.message) > maxMessage {
		return nil, errEntry
	}
	e.size = int64(size)
	list := take(n * sha256.Size)
	for len(list) > 0 {
		e.sums = append(e.sums, sum(list[:sha256.Size]))
		list = list[sha256.Size:]
	}
	if p := take(number()); len(p) > 0 {
		e.present = strings.Split(string(p), "\x00")
	}
	if fail || len(rest) > 0 {
		return nil, errEntry
	}
	return e, nil
}

// keyOf names a command: what stands on its line, where it runs, and what decides how it speaks.
func keyOf(compiler, dir string, env []string, args []string) sum {
	h := sha256.New()
	h.Write([]byte(version))
	list(h, append([]string{compiler, dir}, env...))
	list(h, args)
	return sum(h.Sum(nil))
}

// list adds strings to a hash so that no two lists look alike.
func list(h hash.Hash, all []string) {
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(all))))
	for _, s := range all {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
}

// configOf names the values that a configuration has for those options whose names texts mention, and further facts.
func configOf(values map[string]string, texts []*text, further []string) sum {
	n := 0
	for _, t := range texts {
		n += len(t.options)
	}
	seen := make(map[string]bool, n)
	var facts []string
	for _, t := range texts {
		for _, o := range t.options {
			if seen[o] {
				continue
			}
			seen[o] = true
			for _, name := range []string{o, o + moduleSuffix} {
				if v, ok := values[name]; ok { // one that has no value is told by its absence
					facts = append(facts, name+"="+v)
				}
			}
		}
	}
	slices.Sort(facts)
	h := sha256.New()
	list(h, slices.Compact(facts))
	list(h, further)
	return sum(h.Sum(nil))
}
