package monitor

import (
	"fmt"
	"html"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/katabuild/katabuild/internal/promtext"
	"github.com/katabuild/katabuild/runtime/metrics"
)

// page is one path, with what it has for people.
type page struct {
	path, says string
	serve      func(*Monitor, http.ResponseWriter, *http.Request)
}

// pages are all there are, but the index.
var pages = []page{
	{"/metrics", "numbers of all pods; ?sandbox=ID of one, ?filter_family=NAME,... of families whose names begin so",
		(*Monitor).serveMetrics},
	{"/sandboxes", "the pods", (*Monitor).serveSandboxes},
	{"/agent-url", "?sandbox=ID: where a pod's agent is reached", (*Monitor).serveAgentURL},
}

// Handler answers requests.
func (m *Monitor) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range pages {
		mux.HandleFunc("GET "+p.path, func(w http.ResponseWriter, r *http.Request) {
			select {
			case m.requests <- struct{}{}:
				defer func() { <-m.requests }()
				p.serve(m, w, r)
			default:
				w.Header().Set("Retry-After", "1")
				http.Error(w, fmt.Sprintf("%d requests are being answered", requests), http.StatusServiceUnavailable)
			}
		})
	}
	mux.HandleFunc("GET /{$}", serveIndex)
	return mux
}

// wantsHTML says whether a person asks, with a browser.
func wantsHTML(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

func serveIndex(w http.ResponseWriter, r *http.Request) {
	if !wantsHTML(r) {
		plain(w)
		for _, p := range pages {
			fmt.Fprintf(w, "%-12s %s\n", p.path, p.says)
		}
		return
	}
	page := "<h1>Pods of this node</h1>\n<ul>\n"
	for _, p := range pages {
		page += fmt.Sprintf("<li><a href=%q>%s</a>: %s</li>\n", p.path, p.path, html.EscapeString(p.says))
	}
	writeHTML(w, page+"</ul>\n")
}

func (m *Monitor) serveSandboxes(w http.ResponseWriter, r *http.Request) {
	ids := slices.Sorted(maps.Keys(m.sandboxes()))
	if !wantsHTML(r) {
		plain(w)
		for _, id := range ids {
			fmt.Fprintln(w, id)
		}
		return
	}
	page := "<h1>Pods</h1>\n<ul>\n"
	for _, id := range ids { // which have no character that means something to HTML or in an address
		page += fmt.Sprintf("<li>%s: <a href=\"/metrics?sandbox=%s\">metrics</a>, "+
			"<a href=\"/agent-url?sandbox=%s\">agent-url</a></li>\n", id, id, id)
	}
	writeHTML(w, page+"</ul>\n")
}

func (m *Monitor) serveAgentURL(w http.ResponseWriter, r *http.Request) {
	socket, ok := m.socketOf(w, r)
	if !ok {
		return
	}
	text, err := m.get(r.Context(), socket, "/agent-url")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	plain(w)
	fmt.Fprintln(w, text)
}

// socketOf is that of the pod which a request names; it has answered where there is none.
func (m *Monitor) socketOf(w http.ResponseWriter, r *http.Request) (socket string, ok bool) {
	id := r.URL.Query().Get("sandbox")
	if id == "" {
		http.Error(w, "which pod? ?sandbox=ID says it, and /sandboxes lists them", http.StatusBadRequest)
		return "", false
	}
	if socket = m.sandboxes()[id]; socket == "" {
		http.Error(w, fmt.Sprintf("no pod %.100q", id), http.StatusNotFound)
		return "", false
	}
	return socket, true
}

// maxFilter bounds a filter, in bytes.
const maxFilter = 1024

// filterOf reads filter_family: names by how they begin, or regular expressions for that, with commas between.
func filterOf(r *http.Request) (filter func(string) bool, all bool, err error) {
	text := r.URL.Query().Get("filter_family")
	if text == "" {
		return func(string) bool { return true }, true, nil
	}
	if len(text) > maxFilter {
		return nil, false, fmt.Errorf("filter_family has %d bytes, at most %d are read", len(text), maxFilter)
	}
	var list []*regexp.Regexp
	for _, t := range strings.Split(text, ",") {
		e, err := regexp.Compile("^(?:" + t + ")")
		if err != nil {
			return nil, false, fmt.Errorf("filter_family: %w", err)
		}
		list = append(list, e)
	}
	return func(name string) bool {
		return slices.ContainsFunc(list, func(e *regexp.Regexp) bool { return e.MatchString(name) })
	}, false, nil
}

func (m *Monitor) serveMetrics(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	m.count(&m.scrapes)
	filter, all, err := filterOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var families []promtext.Family
	if r.URL.Query().Has("sandbox") {
		socket, ok := m.socketOf(w, r)
		if !ok {
			return
		}
		if families, err = m.families(r.Context(), socket); err != nil {
			m.count(&m.failed)
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		families = slices.DeleteFunc(families, func(f promtext.Family) bool { return !filter(f.Name) })
	} else {
		families = m.all(r.Context(), filter)
		m.took.Observe("", time.Since(begun))
		if all {
			families = append(families, m.self()...)
		}
	}
	metrics.Write(w, r, promtext.Append(nil, families))
}

func plain(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

func writeHTML(w http.ResponseWriter, page string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'")
	fmt.Fprintf(w, "<!DOCTYPE html>\n<title>kata-runtime monitor</title>\n%s", page)
}
