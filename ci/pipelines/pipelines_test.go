package pipelines_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/katabuild/katabuild/ci/pipelines"
)

// readers are the files, each with what reads it.
var readers = map[string]func([]byte) ([]pipelines.Job, error){
	"github.yml": pipelines.GitHub,
	"gitlab.yml": pipelines.GitLab,
	"tekton.yml": pipelines.Tekton,
}

func read(t *testing.T, name string) (string, []pipelines.Job) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := readers[name](data)
	if err != nil {
		t.Fatal(err)
	}
	return string(data), jobs
}

// TestJobsRunMakeWords wants each command to be a word of the Makefile, but the one that brings make itself, and all
// pipelines to do the same in the same order.
func TestJobsRunMakeWords(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`^make ([a-z-]+)(?: ARCH=(?:\$ARCH|\$\{\{ matrix\.arch \}\}))?$`)
	want := []string{"boot", "build", "release", "sign", "publish", "build", "deploy"}
	for name := range readers {
		_, jobs := read(t, name)
		var words []string
		for _, j := range jobs {
			for i, l := range j.Run {
				if i == 0 && (l == "sh ci/setup.sh" || l == "sh ci/setup.sh guests") {
					continue
				}
				m := command.FindStringSubmatch(l)
				if m == nil {
					t.Errorf("%s: job %s runs %q, which is no make word", name, j.Name, l)
					continue
				}
				if !strings.Contains(string(makefile), "\n"+m[1]+": ") {
					t.Errorf("%s: job %s: the Makefile has no word %s", name, j.Name, m[1])
				}
				words = append(words, m[1])
			}
		}
		all := want
		if name == "tekton.yml" {
			all = want[:5] // it deploys nothing: hosts take releases by themselves
		}
		if !slices.Equal(words, all) {
			t.Errorf("%s runs %q, want %q", name, words, all)
		}
	}
}

// TestEveryArchitectureIsBuilt wants the matrix of each to be the Makefile's.
func TestEveryArchitectureIsBuilt(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^ARCHS := (.*)$`).FindSubmatch(makefile)
	if m == nil {
		t.Fatal("the Makefile has no ARCHS")
	}
	want := "[" + strings.ReplaceAll(string(m[1]), " ", ", ") + "]"
	for name := range readers {
		if text, _ := read(t, name); !strings.Contains(text, want) {
			t.Errorf("%s has no matrix %s", name, want)
		}
	}
}

// TestSettingsAreOnThePage wants each variable that ci/release.sh reads to stand in docs/pipelines.md.
func TestSettingsAreOnThePage(t *testing.T) {
	script, err := os.ReadFile("../release.sh")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/pipelines.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\$\{([A-Z_]+)[:#}]|want ([A-Z_]+) |secret ([A-Z_]+) `).FindAllStringSubmatch(
		string(script), -1)
	if len(found) < 10 {
		t.Fatalf("found only %q", found)
	}
	for _, f := range found {
		name := f[1] + f[2] + f[3]
		if name != "TMPDIR" && name != "NAME" && !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/pipelines.md says nothing of %s", name)
		}
	}
}
