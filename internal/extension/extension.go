// Package extension is what host and guest agree on about extension images: how one is named, found and mounted, and
// the word of the kernel command line that says what its content must be.
//
// docs/formats/extensions.md owns the words. The names are those of Kata Containers.
package extension

import (
	"fmt"
	"strings"

	"github.com/katabuild/katabuild/internal/dmverity"
)

// SerialPrefix begins the serial of a disk that holds an extension.
const SerialPrefix = "extension-"

// The files of an extension's folder, as `katabuild image` leaves them.
const (
	ImageName = "image.img"
	HashName  = "root_hash.txt" // the line with the dm-verity parameters
)

// MaxName is the longest name in bytes, because a virtio-blk serial has at most 20. <linux/virtio_blk.h>,
// VIRTIO_BLK_ID_BYTES.
const MaxName = 20 - len(SerialPrefix)

// mountRoot is the folder that extensions are mounted in, each under its name.
const mountRoot = "/run/kata-extensions"

// WordPrefix begins the word of each extension on the kernel command line.
const WordPrefix = "kata.extension."

// wordSuffix stands behind the name in the word.
const wordSuffix = ".verity_params"

// CheckName says what is wrong with a name.
func CheckName(name string) error {
	if name == "" || name[0] == '-' || strings.Trim(name,
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return fmt.Errorf("name of an extension %q: want letters, digits, dashes and underscores, and no dash "+
			"at first", name)
	}
	if len(name) > MaxName {
		return fmt.Errorf("name of an extension %q: %d bytes, want at most %d, as a disk's serial has 20 and begins "+
			"with %q", name, len(name), MaxName, SerialPrefix)
	}
	return nil
}

// Extension is an extension image as host and guest name it.
type Extension struct {
	Name   string
	Params dmverity.Params
}

// Serial is that of the disk.
func (e Extension) Serial() string { return SerialPrefix + e.Name }

// MountPoint is where the guest has it.
func (e Extension) MountPoint() string { return mountRoot + "/" + e.Name }

// Word is what the kernel command line says of it.
func (e Extension) Word() string { return WordPrefix + e.Name + wordSuffix + "=" + e.Params.String() }

// ParseWord reads a word of the kernel command line. is says whether it is about an extension at all. With an error the
// name is set where there is a right one.
func ParseWord(word string) (e Extension, is bool, err error) {
	rest, is := strings.CutPrefix(word, WordPrefix)
	if !is {
		return e, false, nil
	}
	key, line, assigned := strings.Cut(rest, "=")
	name, ok := strings.CutSuffix(key, wordSuffix)
	if !ok {
		return e, true, fmt.Errorf("kernel command line: %q: want %sNAME%s=VALUE", WordPrefix+key, WordPrefix,
			wordSuffix)
	}
	if err := CheckName(name); err != nil {
		return e, true, fmt.Errorf("kernel command line: %w", err)
	}
	e.Name = name
	if !assigned {
		return e, true, fmt.Errorf("extension %s: the kernel command line has its parameters without a value", name)
	}
	if e.Params, err = dmverity.ParseParams(line); err != nil {
		return e, true, fmt.Errorf("extension %s: its parameters on the kernel command line: %w", name, err)
	}
	return e, true, nil
}
