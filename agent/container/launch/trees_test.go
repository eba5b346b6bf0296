package launch

import "testing"

func TestAFileSystemHasAName(t *testing.T) {
	if got := fileSystem("/proc"); got != "proc" {
		t.Error(got)
	}
	if got := fileSystem("/nowhere"); got != "(unknown)" {
		t.Error(got)
	}
}
