package sbom

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
	"unicode/utf8"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// stream writes an SPDX document in JSON, in the very form of package spdxjson with an indent of one space. That
// package needs all of a document in memory, and a million files have a million records; here they go out one by one.
type stream struct {
	w     *bufio.Writer
	buf   []byte // of one record
	first bool   // of a list
	err   error
}

func newStream(w io.Writer) *stream { return &stream{w: bufio.NewWriterSize(w, 128<<10)} }

func (s *stream) write(b []byte) {
	if s.err == nil {
		_, s.err = s.w.Write(b)
	}
}

// document writes what comes before the files: all but licences and relationships.
func (s *stream) document(doc *v2_3.Document) {
	head := *doc
	head.OtherLicenses, head.Relationships = nil, nil
	var b bytes.Buffer
	if err := spdxjson.Write(&head, &b, spdxjson.Indent(" "), spdxjson.EscapeHTML(false)); err != nil {
		s.err = err
		return
	}
	s.write(bytes.TrimSuffix(b.Bytes(), []byte("\n}\n")))
}

// list writes a list, whose records f writes. Where there are none, there is no list.
func (s *stream) list(name string, f func() error) {
	if s.err != nil {
		return
	}
	s.first = true
	s.buf = append(append(append(s.buf[:0], ",\n \""...), name...), "\": ["...)
	if err := f(); s.err == nil {
		s.err = err
	}
	if !s.first {
		s.write([]byte("\n ]"))
	}
}

// record starts a record of a list; what is in front of the first is in buf.
func (s *stream) record() {
	if !s.first {
		s.buf = append(s.buf[:0], ',')
	}
	s.first = false
	s.buf = append(s.buf, "\n  {\n   "...)
}

func (s *stream) end() {
	s.buf = append(s.buf, "\n  }"...)
	s.write(s.buf)
}

func (s *stream) file(p string, number int, sum tree.Sum, comment string) {
	s.record()
	b := append(s.buf, `"fileName": `...)
	b = appendString(b, "."+p)
	b = append(b, ",\n   \"SPDXID\": \"SPDXRef-File-"...)
	b = strconv.AppendInt(b, int64(number), 10)
	// The specification asks for SHA-1; SHA-256 is what can be trusted.
	b = append(b, "\",\n   \"checksums\": [\n    {\n     \"algorithm\": \"SHA1\",\n     \"checksumValue\": \""...)
	b = hex.AppendEncode(b, sum.SHA1[:])
	b = append(b, "\"\n    },\n    {\n     \"algorithm\": \"SHA256\",\n     \"checksumValue\": \""...)
	b = hex.AppendEncode(b, sum.SHA256[:])
	b = append(b, "\"\n    }\n   ],\n   \"licenseConcluded\": \"NOASSERTION\",\n   "...)
	b = append(b, `"copyrightText": "NOASSERTION"`...)
	if comment != "" {
		b = appendString(append(b, ",\n   \"comment\": "...), comment)
	}
	s.buf = b
	s.end()
}

func (s *stream) relationship(a, b, kind string) {
	s.record()
	s.buf = append(append(append(s.buf, `"spdxElementId": "SPDXRef-`...), a...), "\",\n   "...)
	s.buf = append(append(append(s.buf, `"relatedSpdxElement": "SPDXRef-`...), b...), "\",\n   "...)
	s.buf = append(append(append(s.buf, `"relationshipType": "`...), kind...), '"')
	s.end()
}

// others writes the licences that SPDX does not know.
func (s *stream) others(list []*v2_3.OtherLicense) {
	if len(list) == 0 || s.err != nil {
		return
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(" ", " ")
	s.err = e.Encode(list)
	s.write(append([]byte(",\n \"hasExtractedLicensingInfos\": "), bytes.TrimSuffix(b.Bytes(), []byte("\n"))...))
}

func (s *stream) close() error {
	s.write([]byte("\n}\n"))
	if s.err != nil {
		return s.err
	}
	return s.w.Flush()
}

// appendString appends a string of JSON as encoding/json writes it without regard for HTML.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			var odd bytes.Buffer
			e := json.NewEncoder(&odd)
			e.SetEscapeHTML(false)
			if err := e.Encode(s); err != nil {
				panic(err) // every string has a form in JSON
			}
			return append(b, bytes.TrimSuffix(odd.Bytes(), []byte("\n"))...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}
