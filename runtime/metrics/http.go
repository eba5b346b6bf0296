package metrics

import (
	"net/http"
	"strings"

	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/klauspost/compress/gzip"
)

// Write answers a request with numbers, packed where the client takes it.
func Write(w http.ResponseWriter, r *http.Request, text []byte) {
	h := w.Header()
	h.Set("Content-Type", promtext.ContentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Vary", "Accept-Encoding")
	if !takesGzip(r) {
		_, _ = w.Write(text) // whoever hangs up does not want it
		return
	}
	h.Set("Content-Encoding", "gzip")
	// A process that is there as long as a pod keeps no tables for packing.
	z, err := gzip.NewWriterLevel(w, gzip.StatelessCompression)
	if err != nil {
		panic(err) // the level is one of the package's
	}
	_, _ = z.Write(text)
	_ = z.Close()
}

// takesGzip says whether the client does, RFC 9110, 12.5.3.
func takesGzip(r *http.Request) bool {
	for _, h := range r.Header.Values("Accept-Encoding") {
		for _, e := range strings.Split(h, ",") {
			coding, weight, _ := strings.Cut(strings.ReplaceAll(e, " ", ""), ";")
			if coding == "gzip" || coding == "*" {
				return strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != "" || weight == ""
			}
		}
	}
	return false
}
