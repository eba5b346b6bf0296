package starts

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

var figures = Figures{
	Machine: Machine{Processor: "An <Example> CPU", Processors: 2, Kernel: "6.12", QEMU: "QEMU emulator version 7.2.22",
		Accelerator: "KVM"},
	Series: []Series{
		{Way: Way{Name: "runc"}, Wall: []float64{0.3, 0.1, 0.2}, CPU: []float64{0.1, 0.1, 0.1}},
		{Way: Way{Name: "cold", Machine: "q35", Root: "disk"}, Wall: []float64{4, 2, 8}, CPU: []float64{2, 2, 2}},
		{Way: Way{Name: "pool", Machine: "q35", Root: "disk"}, Wall: []float64{1, 1, 3}, CPU: []float64{0.5, 1, 0.1}},
	},
}

func TestTheTableHasMediansAndRatios(t *testing.T) {
	want := `- 2 processors, An <Example> CPU; Linux 6.12
- QEMU emulator version 7.2.22; guests run by KVM
- 3 rounds; in each, every way took its turn

| way | median, s | p90, s | CPU s | of cold | CPU of cold |
|---|--:|--:|--:|--:|--:|
| runc | 0.20 | 0.30 | 0.10 | | |
| cold, q35, disk | 4.00 | 8.00 | 2.00 | 1.00 | 1.00 |
| pool, q35, disk | 1.00 | 3.00 | 0.50 | 0.25 | 0.25 |
`
	if got := figures.Markdown(); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestThePictureIsXMLAndNamesEachWay(t *testing.T) {
	picture := figures.SVG()
	d := xml.NewDecoder(strings.NewReader(picture))
	var text strings.Builder
	bars := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.CharData:
			text.Write(tok)
		case xml.StartElement:
			if tok.Name.Local == "rect" {
				bars++
			}
		}
	}
	for _, s := range figures.Series {
		if !strings.Contains(text.String(), s.Way.String()) {
			t.Errorf("no %s", s.Way)
		}
	}
	if want := 1 + 2*len(figures.Series); bars != want {
		t.Errorf("%d rectangles, want %d", bars, want)
	}
	if got := (&Figures{}).SVG(); !strings.HasSuffix(got, "</svg>\n") {
		t.Errorf("of nothing: %s", got)
	}
}
