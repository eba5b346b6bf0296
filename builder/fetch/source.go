package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/debian/control"
)

// Source is what a file in the form of deb822 says of an archive. sources.list(5), "DEB822-STYLE FORMAT".
type Source struct {
	Address    string
	Suites     []string
	Components []string
	Keys       []byte // the keys that sign it, where they stand in the file itself
	KeyFile    string // or the absolute path of a file that has them
}

// maxSource bounds such a file, in bytes: a key in it has some kilobytes.
const maxSource = 1 << 20

// ParseSource reads a file with one stanza. What it cannot do as the file says is an error.
func ParseSource(data []byte) (Source, error) {
	var s Source
	if len(data) > maxSource {
		return s, fmt.Errorf("%d bytes: want at most %d", len(data), maxSource)
	}
	c, err := control.Parse(bytes.TrimSpace(data))
	if err != nil {
		return s, fmt.Errorf("%w; want one stanza with Types, URIs, Suites, Components and Signed-By", err)
	}
	for _, f := range c {
		words := strings.Fields(f.Value)
		switch strings.ToLower(f.Name) {
		case "types":
			if !slices.Contains(words, "deb") {
				//lint:ignore ST1005 a name begins the sentence
				return s, fmt.Errorf("Types: %s: want deb", f.Value)
			}
		case "uris":
			if len(words) != 1 || !strings.HasPrefix(words[0], "http://") && !strings.HasPrefix(words[0], "https://") {
				return s, fmt.Errorf("URIs: %s: want one address that begins with http:// or https://",
					f.Value)
			}
			s.Address = words[0]
		case "suites":
			s.Suites = words
		case "components":
			s.Components = words
		case "signed-by":
			if err := s.signedBy(f.Value); err != nil {
				return s, err
			}
		case "enabled":
			if len(words) != 1 || words[0] != "yes" {
				return s, errors.New("the source is not enabled")
			}
		case "trusted", "allow-insecure", "allow-weak":
			return s, fmt.Errorf(
				"%s: packages of an archive count only with its signature; single files go into debs", f.Name)
		}
	}
	switch {
	case s.Address == "" || len(s.Suites) == 0:
		return s, errors.New("no URIs, or no Suites")
	case s.Keys == nil && s.KeyFile == "":
		return s, errors.New("no Signed-By: want the keys that sign the archive, or the absolute path of a file " +
			"that has them")
	}
	for _, suite := range s.Suites {
		if err := checkSuite(suite); err != nil {
			return s, err
		}
		if isFlat(suite) != (s.Components == nil) {
			return s, fmt.Errorf("suite %s: a suite has components, a folder that ends in / has none", suite)
		}
	}
	if s.Components == nil {
		s.Components = []string{mainComponent}
	}
	return s, nil
}

// signedBy reads keys that stand in a stanza, where a dot stands for an empty line, or the path of a file.
func (s *Source) signedBy(value string) error {
	if !strings.Contains(value, "-----BEGIN ") {
		if s.KeyFile = strings.TrimSpace(value); !strings.HasPrefix(s.KeyFile, "/") {
			return fmt.Errorf("Signed-By: %s: want keys, or the absolute path of a file",
				value)
		}
		return nil
	}
	var b strings.Builder
	for line := range strings.SplitSeq(value, "\n") {
		if line = strings.TrimSpace(line); line == "." {
			line = ""
		}
		b.WriteString(line + "\n")
	}
	s.Keys = []byte(strings.TrimLeft(b.String(), "\n"))
	return nil
}
