package pod

import (
	"strings"
	"testing"
)

func TestACopyHasBounds(t *testing.T) {
	r := room{bytes: 10, files: 3}
	for i, c := range []struct {
		size int64
		says string
	}{{10, ""}, {0, ""}, {1, "MiB"}} {
		if err := r.take(c.size); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(),
			c.says) {
			t.Errorf("%d: %v", i, err)
		}
	}
	r = room{bytes: 10, files: 1}
	if r.take(0) != nil || !strings.Contains(r.take(0).Error(), "files") {
		t.Error("the number of files has no bound")
	}
}
