package picture

import (
	"encoding/xml"
	"fmt"
	"strings"
	"time"
)

// Measures of the picture, in pixels.
const (
	svgLabels = 330 // width of the names
	svgBars   = 760 // width of the whole time
	svgTook   = 90  // room for durations behind a bar that ends at the right edge
	svgRow    = 20  // height of a row
	svgTop    = 64  // above the first row
	svgIndent = 12  // of a row below its parent
	svgGlyph  = 6.6 // width of a letter of 11 pixels, about
	svgMinBar = 1.5 // width of a bar that would be too small to be seen
	svgTicks  = 10  // about how many
)

// Colours: of the host's bars, the guest's, and those of what failed.
const (
	svgHost   = "#3b6ea5"
	svgGuest  = "#d9822b"
	svgFailed = "#b3261e"
)

// SVG is the picture as an SVG file that needs nothing else: a row for each deed, with its name on the left and its bar
// where it was.
func (p *Picture) SVG() string {
	width, height := svgLabels+svgBars+svgTook, svgTop+svgRow*len(p.Rows)+30
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" `+
		`font-family="sans-serif" font-size="11">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="12" y="22" font-size="15" font-weight="bold">%s: %s ms</text>`+"\n", escape(p.Title),
		millis(p.Total))
	fmt.Fprintf(&b, `<text x="12" y="38" fill="#666666">trace %s</text>`+"\n", p.Trace)
	for i, l := range []struct{ colour, text string }{{svgHost, "host"}, {svgGuest, "guest"}, {svgFailed, "failed"}} {
		x := svgLabels + svgBars - 190 + i*70
		fmt.Fprintf(&b, `<rect x="%d" y="13" width="10" height="10" fill="%s"/><text x="%d" y="22">%s</text>`+"\n", x,
			l.colour, x+14, l.text)
	}
	p.ticks(&b, height-26)
	for i, r := range p.Rows {
		p.row(&b, i, r)
	}
	if p.Left > 0 {
		fmt.Fprintf(&b, `<text x="12" y="%d" fill="#666666">%d more are left out</text>`+"\n", height-8, p.Left)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// x is where a moment is.
func (p *Picture) x(d time.Duration) float64 {
	if p.Total <= 0 {
		return svgLabels
	}
	return svgLabels + svgBars*float64(d)/float64(p.Total)
}

// ticks draws lines at round times, about svgTicks of them.
func (p *Picture) ticks(b *strings.Builder, bottom int) {
	step := time.Duration(1)
	for i := 0; step*svgTicks < p.Total; i++ {
		step = step * []time.Duration{2, 5, 10}[i%3] / []time.Duration{1, 2, 5}[i%3]
	}
	for t := time.Duration(0); t <= p.Total; t += step {
		fmt.Fprintf(b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#dddddd"/>`+
			`<text x="%.1f" y="%d" fill="#666666" text-anchor="middle">%s</text>`+"\n",
			p.x(t), svgTop-6, p.x(t), bottom, p.x(t), svgTop-10, tick(t))
	}
}

func tick(t time.Duration) string {
	return fmt.Sprintf("%g ms", float64(t)/float64(time.Millisecond))
}

func (p *Picture) row(b *strings.Builder, i int, r Row) {
	y := svgTop + i*svgRow
	colour := svgHost
	if r.Of == guest {
		colour = svgGuest
	}
	if r.Error != "" {
		colour = svgFailed
	}
	indent := 12 + svgIndent*min(r.Depth, maxDepth)
	name := r.Name
	if room := int(float64(svgLabels-indent) / svgGlyph); len([]rune(name)) > room {
		name = string([]rune(name)[:room-1]) + "…"
	}
	hint := fmt.Sprintf("%s: at %s ms, took %s ms", r.Name, millis(r.From), millis(r.Took))
	for _, a := range r.Notes {
		hint += "\n" + a.Key + ": " + a.Value
	}
	if r.Error != "" {
		hint += "\n" + r.Error
	}
	x, w := p.x(r.From), max(p.x(r.From+r.Took)-p.x(r.From), svgMinBar)
	fmt.Fprintf(b, `<g><title>%s</title><text x="%d" y="%d">%s</text>`+
		`<rect x="%.1f" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+
		`<text x="%.1f" y="%d" fill="#444444">%s</text></g>`+"\n",
		escape(hint), indent, y+13, escape(name), x, y+3, w, svgRow-7, colour, x+w+4, y+13, millis(r.Took))
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes all
	return b.String()
}
