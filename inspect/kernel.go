package inspect

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/elfnote"
	"github.com/katabuild/katabuild/internal/regular"
)

// Kernel is what a kernel file says of itself.
type Kernel struct {
	Form         string        `json:"form"`    // vmlinux (ELF) or bzImage
	Release      string        `json:"release"` // uname -r
	Version      string        `json:"version"` // the whole banner
	BuildID      string        `json:"build_id,omitempty"`
	PVH          bool          `json:"pvh"`
	ConfigDigest digest.Digest `json:"config_digest,omitempty"` // of the .config inside; empty where there is none
	Config       []byte        `json:"-"`
}

// maxKernel bounds an unpacked kernel, in bytes.
const maxKernel = 512 << 20

// Offsets in a bzImage. Linux: Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
const (
	bzSetupSects     = 0x1f1
	bzMagic          = 0x202 // "HdrS"
	bzProtocol       = 0x206
	bzPayloadOffset  = 0x248 // from protocol 2.08 on
	bzPayloadLength  = 0x24c
	bzHeaderEnd      = 0x250
	bzPayloadVersion = 0x0208
	bzSector         = 512
)

// payload returns the unpacked ELF file of a bzImage.
func payload(b []byte) ([]byte, error) {
	if len(b) < bzHeaderEnd || string(b[bzMagic:bzMagic+4]) != "HdrS" ||
		binary.LittleEndian.Uint16(b[bzProtocol:]) < bzPayloadVersion {
		return nil, errors.New("no x86 kernel of boot protocol 2.08 or later")
	}
	sects := int64(b[bzSetupSects])
	if sects == 0 {
		sects = 4 // as boot.rst says
	}
	from := (sects+1)*bzSector + int64(binary.LittleEndian.Uint32(b[bzPayloadOffset:]))
	length := int64(binary.LittleEndian.Uint32(b[bzPayloadLength:]))
	if length < 8 || from > int64(len(b))-length {
		return nil, fmt.Errorf("a payload of %d bytes at %d in %d bytes", length, from, len(b))
	}
	p := b[from : from+length]
	if !bytes.HasPrefix(p, []byte{0x1f, 0x8b}) {
		p = p[:len(p)-4] // the kernel's make appends the unpacked size to all but gzip
	}
	return unpack(p)
}

var banner = regexp.MustCompile(`Linux version ([0-9][^ \x00]{0,127}) \([^\n\x00]{1,1000}`)

// kernelOf reads a kernel in either form.
func kernelOf(path string) (*Kernel, error) {
	b, err := regular.ReadFile(path, maxKernel)
	if err != nil {
		return nil, err
	}
	k := &Kernel{Form: "vmlinux"}
	if !bytes.HasPrefix(b, []byte(elf.ELFMAG)) {
		k.Form = "bzImage"
		if b, err = payload(b); err != nil {
			return nil, err
		}
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	notes := elfnote.Read(f)
	k.BuildID, k.PVH = notes.BuildID(), notes.PVH()
	m := banner.FindSubmatch(b)
	if m == nil {
		return nil, errors.New("an ELF file without Linux's banner")
	}
	k.Version, k.Release = string(m[0]), string(m[1])
	if k.Config, err = ikconfig(b); err != nil {
		return nil, err
	}
	if k.Config != nil {
		k.ConfigDigest = digest.Of(k.Config)
	}
	return k, nil
}

// ikconfig unpacks the .config that CONFIG_IKCONFIG puts between two marks. kernel/configs.c. Nil where there is none.
func ikconfig(b []byte) ([]byte, error) {
	const from, to = "IKCFG_ST", "IKCFG_ED"
	i := bytes.Index(b, []byte(from+"\x1f\x8b"))
	if i < 0 {
		return nil, nil
	}
	b = b[i+len(from):]
	j := bytes.Index(b, []byte(to))
	if j < 0 {
		return nil, errors.New("the configuration inside has no end")
	}
	z, err := gzip.NewReader(bytes.NewReader(b[:j]))
	if err != nil {
		return nil, fmt.Errorf("the configuration inside: %w", err)
	}
	const most = 16 << 20
	out, err := io.ReadAll(io.LimitReader(z, most+1))
	if err != nil || len(out) > most {
		return nil, fmt.Errorf("the configuration inside: %d bytes, %w", len(out), err)
	}
	return out, nil
}
