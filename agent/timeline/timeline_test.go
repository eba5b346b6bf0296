package timeline

import "testing"

func TestMomentsComeInOrderOfTime(t *testing.T) {
	l := New()
	l.Mark(Mounts)
	l.Mark(Ready)
	m := l.Moments()
	for i, want := range []string{Kernel, Start, Init, Mounts, Ready} {
		if m[i].Name != want || i > 0 && (m[i].At < m[i-1].At || m[i].At == 0) {
			t.Errorf("moment %d: %v after %v, want %s", i, m[i], m[max(i, 1)-1], want)
		}
	}
	m[0].Name = "changed"
	if l.Moments()[0].Name != Kernel {
		t.Error("a caller can change the timeline")
	}
}
