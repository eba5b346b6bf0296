package inspect

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/katabuild/katabuild/rootfs/tree"
)

// area is a folder or file and what it takes.
type area struct {
	path  string
	size  int64
	parts []*area // largest first
}

// measure adds up sizes; a file with several names counts where it is met first.
func measure(t *tree.Tree, at string, n *tree.Node, seen map[*tree.Node]bool) *area {
	a := &area{path: at}
	if n.Kind != tree.Dir {
		if !seen[n] {
			a.size = n.Size()
			seen[n] = true
		}
		return a
	}
	for _, name := range n.Names() {
		if c := measure(t, path.Join(at, name), n.Child(name), seen); c.size > 0 {
			a.parts = append(a.parts, c)
			a.size += c.size
		}
	}
	slices.SortStableFunc(a.parts, func(x, y *area) int { return cmp.Compare(y.size, x.size) })
	return a
}

type rect struct{ x, y, w, h float64 }

// Size of a drawing, in CSS pixels, and of what is still drawn in it.
const (
	mapWidth, mapHeight = 1200, 800
	headHeight          = 16 // of a folder's title
	leastSide           = 3  // smaller areas are left to their folder's colour
)

// Treemap draws, as SVG, what takes how much room below a path: rectangles as large as their files, inside those of
// their folders.
func Treemap(w io.Writer, t *tree.Tree, at string) error {
	n, err := t.Resolve(at)
	if err != nil {
		return err
	}
	top := measure(t, tree.Clean(at), n, map[*tree.Node]bool{})
	d := &drawing{w: w}
	d.print(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" `+
		`font-family="sans-serif" font-size="11">`+"\n", mapWidth, mapHeight, mapWidth, mapHeight)
	d.draw(top, rect{0, 0, mapWidth, mapHeight}, 0)
	d.print("</svg>\n")
	return d.err
}

type drawing struct {
	w   io.Writer
	err error
}

func (d *drawing) print(format string, args ...any) {
	if d.err == nil {
		_, d.err = fmt.Fprintf(d.w, format, args...)
	}
}

func escape(s string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(s)); err != nil {
		return "?"
	}
	return b.String()
}

func (d *drawing) draw(a *area, r rect, depth int) {
	if r.w < leastSide || r.h < leastSide {
		return
	}
	hue, light := (depth*47+200)%360, 88-4*min(depth, 8)
	title := fmt.Sprintf("%s, %s", a.path, humanSize(a.size))
	d.print(`<g><title>%s</title><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" `+
		`fill="hsl(%d,45%%,%d%%)" stroke="#fff" stroke-width="0.5"/>`, escape(title), r.x, r.y, r.w, r.h, hue, light)
	if r.w > 60 && r.h > headHeight {
		label := path.Base(a.path) + " " + humanSize(a.size)
		if most := int(r.w / 6); len([]rune(label)) > most {
			label = string([]rune(label)[:most])
		}
		d.print(`<text x="%.1f" y="%.1f">%s</text>`, r.x+3, r.y+12, escape(label))
	}
	d.print("</g>\n")
	inner := rect{r.x + 1, r.y + headHeight, r.w - 2, r.h - headHeight - 1}
	if len(a.parts) > 0 && inner.w > leastSide && inner.h > leastSide {
		squarify(a.parts, a.size, inner, func(p *area, r rect) { d.draw(p, r, depth+1) })
	}
}

// squarify fills a rectangle with parts in rows along its shorter side, each row taken as long as its rectangles become
// less oblong. Bruls, Huizing, van Wijk: Squarified Treemaps, 2000.
func squarify(parts []*area, total int64, r rect, place func(*area, rect)) {
	scale := r.w * r.h / float64(total)
	for len(parts) > 0 {
		side := min(r.w, r.h)
		row, sum := 1, float64(parts[0].size)*scale
		worst := oblong(parts[:1], sum, side, scale)
		for row < len(parts) {
			next := sum + float64(parts[row].size)*scale
			w := oblong(parts[:row+1], next, side, scale)
			if w > worst {
				break
			}
			row, sum, worst = row+1, next, w
		}
		thick := sum / side
		at := 0.0
		for _, p := range parts[:row] {
			long := float64(p.size) * scale / thick
			if r.w >= r.h {
				place(p, rect{r.x, r.y + at, thick, long})
			} else {
				place(p, rect{r.x + at, r.y, long, thick})
			}
			at += long
		}
		if r.w >= r.h {
			r.x, r.w = r.x+thick, r.w-thick
		} else {
			r.y, r.h = r.y+thick, r.h-thick
		}
		parts = parts[row:]
		if r.w <= 0 || r.h <= 0 {
			return
		}
	}
}

// oblong is the worst ratio of sides in a row of parts that together take sum.
func oblong(row []*area, sum, side, scale float64) float64 {
	worst := 1.0
	for _, p := range row {
		long := float64(p.size) * scale * side / sum
		thick := sum / side
		worst = max(worst, long/thick, thick/long)
	}
	return worst
}

func humanSize(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
