package measure

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ELF notes (System V ABI, "Note Section"): three words, then the name and the descriptor, each padded to four bytes.
// All words are in the byte order of the machine.
const (
	noteHeaderSize = 3 * 4
	ntGNUBuildID   = 3 // <elf.h>: NT_GNU_BUILD_ID
)

var gnu = "GNU\x00"

var errNoBuildID = errors.New("no GNU build-id among the notes")

// buildID finds the GNU build-id in a run of ELF notes.
func buildID(notes []byte, order binary.ByteOrder) ([]byte, error) {
	for at := 0; at < len(notes); {
		rest := notes[at:]
		if len(rest) < noteHeaderSize {
			return nil, fmt.Errorf("ELF note at %d: %d bytes, less than its header", at, len(rest))
		}
		// The sizes are 32 bits wide and padding them up must not overflow, whatever int is.
		nameSize, descSize := uint64(order.Uint32(rest)), uint64(order.Uint32(rest[4:]))
		kind := order.Uint32(rest[8:])
		desc := noteHeaderSize + pad(nameSize)
		if end := desc + descSize; end > uint64(len(rest)) {
			return nil, fmt.Errorf("ELF note at %d: ends %d bytes behind the last", at, end-uint64(len(rest)))
		}
		if kind == ntGNUBuildID && string(rest[noteHeaderSize:noteHeaderSize+nameSize]) == gnu && descSize > 0 {
			return rest[desc : desc+descSize], nil
		}
		at += int(min(desc+pad(descSize), uint64(len(rest)))) // the last note may lack its padding
	}
	return nil, errNoBuildID
}

func pad(n uint64) uint64 { return (n + 3) &^ 3 }
