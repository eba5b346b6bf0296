package picture

import (
	"fmt"
	"strings"
	"time"
)

// textBar is how wide a bar of text is, in columns.
const textBar = 24

// Text is the picture as lines: when a deed began, how long it took, both in milliseconds, and what it was. A guest's
// are marked with a g.
func (p *Picture) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s ms, trace %s\n", p.Title, millis(p.Total), p.Trace)
	fmt.Fprintf(&b, "%9s %9s    %-*s\n", "at", "ms", textBar, "")
	for _, r := range p.Rows {
		mark := " "
		if r.Of == guest {
			mark = "g"
		}
		fmt.Fprintf(&b, "%9s %9s %s  %s  %s%s", millis(r.From), millis(r.Took), mark, p.bar(r),
			strings.Repeat("  ", min(r.Depth, maxDepth)), r.Name)
		if r.Error != "" {
			fmt.Fprintf(&b, ": %s", r.Error)
		}
		b.WriteByte('\n')
	}
	if p.Left > 0 {
		fmt.Fprintf(&b, "%d more are left out\n", p.Left)
	}
	return b.String()
}

// maxDepth bounds how far a name is moved to the right.
const maxDepth = 12

// bar is a row's place in the whole time, as text.
func (p *Picture) bar(r Row) string {
	from, to := 0, textBar
	if p.Total > 0 {
		from = int(int64(textBar) * int64(r.From) / int64(p.Total))
		to = int(int64(textBar) * int64(r.From+r.Took) / int64(p.Total))
	}
	from = min(from, textBar-1)
	to = min(max(to, from+1), textBar)
	return strings.Repeat(".", from) + strings.Repeat("=", to-from) + strings.Repeat(".", textBar-to)
}

func millis(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
