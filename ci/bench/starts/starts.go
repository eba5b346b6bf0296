// Package starts tells how long containers took to start: as a table and as a picture.
package starts

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Way is one way to have a program run.
type Way struct {
	Name    string `json:"name"`    // "cold", "template", "pool", "boot" or "runc"
	Machine string `json:"machine"` // "microvm" or "q35"; empty for runc
	Root    string `json:"root"`    // "disk" or "initrd"; empty for runc
}

// Series is what one way took each time, in seconds.
type Series struct {
	Way
	Wall []float64 `json:"wall"`
	CPU  []float64 `json:"cpu"` // of all processors together
}

// Machine is what was measured on.
type Machine struct {
	Processor   string `json:"processor"`
	Processors  int    `json:"processors"`
	Kernel      string `json:"kernel"`
	QEMU        string `json:"qemu"`
	Accelerator string `json:"accelerator"`
}

// Figures are those of one run.
type Figures struct {
	Machine Machine  `json:"machine"`
	Series  []Series `json:"series"`
}

// String names a way as the tables do.
func (w Way) String() string {
	if w.Machine == "" {
		return w.Name
	}
	return fmt.Sprintf("%s, %s, %s", w.Name, w.Machine, w.Root)
}

// quantile is the smallest value that a share of all are not above; q is in (0, 1].
func quantile(all []float64, q float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	all = slices.Sorted(slices.Values(all))
	return all[int(math.Ceil(q*float64(len(all))))-1]
}

// cold is the way that a way is compared with: of the same machine and root.
func (f *Figures) cold(w Way) *Series {
	for i, s := range f.Series {
		if s.Name == "cold" && s.Machine == w.Machine && s.Root == w.Root {
			return &f.Series[i]
		}
	}
	return nil
}

// Markdown is the table, with what was measured on above it.
func (f *Figures) Markdown() string {
	var b strings.Builder
	m := f.Machine
	fmt.Fprintf(&b, "- %d processors, %s; Linux %s\n- %s; guests run by %s\n", m.Processors,
		cmp.Or(m.Processor, "of an unknown kind"), m.Kernel, m.QEMU, m.Accelerator)
	n := 0
	if len(f.Series) > 0 {
		n = len(f.Series[0].Wall)
	}
	fmt.Fprintf(&b, "- %d rounds; in each, every way took its turn\n\n", n)
	b.WriteString("| way | median, s | p90, s | CPU s | of cold | CPU of cold |\n|---|--:|--:|--:|--:|--:|\n")
	for _, s := range f.Series {
		wall, spent := quantile(s.Wall, 0.5), quantile(s.CPU, 0.5)
		ratios := "| | |"
		if c := f.cold(s.Way); c != nil {
			ratios = fmt.Sprintf("| %.2f | %.2f |", wall/quantile(c.Wall, 0.5), spent/quantile(c.CPU, 0.5))
		}
		fmt.Fprintf(&b, "| %s | %.2f | %.2f | %.2f %s\n", s.Way, wall, quantile(s.Wall, 0.9), spent, ratios)
	}
	return b.String()
}

// The picture's measures, in pixels.
const (
	width, labels, lineHeight, margin = 760, 190, 26, 12
)

// SVG is a picture of the table: a bar for each way's median, a line up to its p90, and a narrow bar for the
// processor time.
func (f *Figures) SVG() string {
	most := 0.0
	for _, s := range f.Series {
		most = max(most, quantile(s.Wall, 0.9), quantile(s.CPU, 0.5))
	}
	if most == 0 {
		most = 1
	}
	scale := float64(width-labels-90) / most
	height := 2*margin + (len(f.Series)+2)*lineHeight
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" `+
		`font-family="sans-serif" font-size="13">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">Seconds until a container's program runs</text>`+"\n",
		margin, margin+lineHeight/2)
	for i, s := range f.Series {
		y := margin + (i+1)*lineHeight
		wall, p90, spent := quantile(s.Wall, 0.5)*scale, quantile(s.Wall, 0.9)*scale, quantile(s.CPU, 0.5)*scale
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labels-8, y+15,
			escape(s.Way.String()))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="12" fill="%s"/>`+"\n", labels, y+2, wall,
			colour(s.Way))
		fmt.Fprintf(&b, `<line x1="%d" y1="%d" x2="%.1f" y2="%d" stroke="#444"/>`+"\n", labels, y+8,
			float64(labels)+p90, y+8)
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="4" fill="#999"/>`+"\n", labels, y+15, spent)
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%.2f s</text>`+"\n", float64(labels)+max(p90, spent)+6, y+14,
			quantile(s.Wall, 0.5))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" fill="#444">bar: median; line: up to p90; grey: processor time. %s</text>`,
		margin, height-margin, escape(fmt.Sprintf("%d processors, %s", f.Machine.Processors, f.Machine.Accelerator)))
	b.WriteString("\n</svg>\n")
	return b.String()
}

// colour tells ways apart.
func colour(w Way) string {
	switch w.Name {
	case "cold":
		return "#4878a8"
	case "template":
		return "#e0a030"
	case "pool":
		return "#58a058"
	}
	return "#b0b0b8"
}

func escape(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		panic(err) // a Builder's writes do not fail
	}
	return b.String()
}
