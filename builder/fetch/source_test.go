package fetch

import (
	"strings"
	"testing"
)

const sampleSource = `# A vendor's archive.
Types: deb deb-src
URIs: https://vendor.example/debian
Suites: stable stable-security
Components: main contrib
Architectures: amd64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
`

func TestSourcesAreRead(t *testing.T) {
	s, err := ParseSource([]byte(sampleSource))
	if err != nil {
		t.Fatal(err)
	}
	const key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n"
	if s.Address != "https://vendor.example/debian" || strings.Join(s.Suites, " ") != "stable stable-security" ||
		strings.Join(s.Components, " ") != "main contrib" || string(s.Keys) != key {
		t.Errorf("got %+v, keys %q", s, s.Keys)
	}
	flat := "Types: deb\nURIs: http://vendor.example/x\nSuites: ./\nSigned-By: /etc/keys/vendor.gpg\n"
	if s, err = ParseSource([]byte(flat)); err != nil || s.KeyFile != "/etc/keys/vendor.gpg" || s.Suites[0] != "./" {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestSourcesThatCannotBeFollowedAreRefused(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"no packages", "deb deb-src", "deb-src", "Types: deb-src: want deb"},
		{"two addresses", "https://vendor.example/debian", "https://a https://b", "want one address"},
		{"a mirror list", "https://vendor", "mirror+file://vendor", "want one address"},
		{"switched off", "Types:", "Enabled: no\nTypes:", "not enabled"},
		{"unsigned", "Types:", "Trusted: yes\nTypes:", "count only with its signature"},
		{"a suite that climbs", "stable stable-security", "../x", "no name of a suite"},
		{"a folder with components", "stable stable-security", "./", "has none"},
		{"a suite without", "Components: main contrib\n", "", "a suite has components"},
		{"no key", sampleSource[strings.Index(sampleSource, "Signed-By"):], "", "no Signed-By"},
		{"a key that is no path", sampleSource[strings.Index(sampleSource, "Signed-By"):], "Signed-By: vendor.gpg\n",
			"absolute path"},
		{"two stanzas", "Architectures: amd64\n", "\nTypes: deb\n", "want one stanza"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(sampleSource, c.from, c.to, 1)
			if _, err := ParseSource([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func FuzzSource(f *testing.F) {
	f.Add([]byte(sampleSource))
	f.Add([]byte("Types: deb\nURIs: http://x/\nSuites: ./\nSigned-By: /x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSource(data)
		if err != nil {
			return
		}
		// Whatever was read can be asked for: no suite or component climbs out of an address.
		for _, suite := range s.Suites {
			if strings.Contains("/"+suite, "/..") {
				t.Errorf("suite %q", suite)
			}
		}
	})
}
