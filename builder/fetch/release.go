package fetch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/katabuild/katabuild/internal/digest"
)

// release is what counts of a suite's release file. https://wiki.debian.org/DebianRepository/Format, "Release files".
type release struct {
	Release
	names      []string  // by which the suite goes: Suite and Codename
	validUntil time.Time // zero where it says nothing
	byHash     bool      // files are also there under their digest
	files      map[string]listed
}

// listed is a file that a release file names, by its path below the suite's folder.
type listed struct {
	digest digest.Digest
	size   int64
}

// verifyClear checks a clear-signed text (RFC 9580 section 7) and returns what was signed, and nothing that stands
// around it. One good signature by a key of the keyring is enough: Debian signs with old and new keys at once.
func verifyClear(data, keyring []byte, now time.Time) ([]byte, error) {
	keys, err := readKeyring(keyring)
	if err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	if !bytes.HasPrefix(data, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		return nil, errors.New("not signed")
	}
	block, rest := clearsign.Decode(data)
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not one signed text and nothing else")
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	signatures := packet.NewOpaqueReader(block.ArmoredSignature.Body)
	var errs []error
	for {
		one, err := signatures.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, errors.Join(append(errs, err)...)
		}
		var b bytes.Buffer
		if err := one.Serialize(&b); err != nil {
			return nil, err
		}
		if _, err = openpgp.CheckDetachedSignature(keys, bytes.NewReader(block.Bytes), &b, config); err == nil {
			return block.Plaintext, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no good signature: %w", errors.Join(append(errs, errNoSignature)...))
}

var errNoSignature = errors.New("none by a key of the keyring")

func readKeyring(b []byte) (openpgp.EntityList, error) {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN ")) {
		return openpgp.ReadArmoredKeyRing(bytes.NewReader(b))
	}
	return openpgp.ReadKeyRing(bytes.NewReader(b))
}

// parseRelease reads a release file's one stanza.
func parseRelease(data []byte) (*release, error) {
	r := &release{files: map[string]listed{}}
	in := ""
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, " ") {
			f := strings.Fields(line)
			if in != "SHA256" {
				continue
			}
			if len(f) != 3 {
				return nil, fmt.Errorf("line %.60q: want digest, size and name", line)
			}
			d, err := digest.Parse("sha256:" + f[0])
			if err != nil {
				return nil, err
			}
			size, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil || size < 0 {
				return nil, fmt.Errorf("%s: size %q", f[2], f[1])
			}
			r.files[f[2]] = listed{d, size}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		in, value = name, strings.TrimSpace(value)
		var err error
		switch name {
		case "Suite", "Codename":
			r.names = append(r.names, value)
		case "Date":
			r.Date, err = parseDate(value)
		case "Valid-Until":
			r.validUntil, err = parseDate(value)
		case "NotAutomatic":
			r.NotAutomatic = value == "yes"
		case "ButAutomaticUpgrades":
			r.ButAutomaticUpgrades = value == "yes"
		case "Acquire-By-Hash":
			r.byHash = value == "yes"
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if r.Date.IsZero() {
		return nil, errors.New("no date")
	}
	return r, nil
}

// parseDate reads a time in universal time: RFC 5322 with a name for the zone.
func parseDate(s string) (time.Time, error) {
	t, err := time.Parse("Mon, _2 Jan 2006 15:04:05 MST", s)
	if err == nil && t.Location() != time.UTC {
		err = fmt.Errorf("time %q: want UTC", s)
	}
	return t, err
}
