// Syscalls writes the tables of system calls in agent/container/seccomp, from the constants of golang.org/x/sys in the
// version of go.mod. With -check it writes nothing, and exits with 1 where a table is not current.
//
// usage: syscalls [-check], in the folder of the repository
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// tables says which table has the numbers of which of Go's architectures.
var tables = map[string]string{"callsX86_64": "amd64", "callsX86": "386", "callsAARCH64": "arm64", "callsARM": "arm",
	"callsPPC64LE": "ppc64le", "callsRISCV64": "riscv64", "callsS390X": "s390x"}

// width is the length of a table's lines in bytes.
const width = 120

var (
	table    = regexp.MustCompile("(?s)const (calls[A-Z0-9_]+) = `[^`]*`")
	constant = regexp.MustCompile(`(?m)^\tSYS_([A-Z0-9_]+) += ([0-9]+)$`)
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail where a table is not current")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "syscalls:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil {
		return fmt.Errorf("folder of golang.org/x/sys: %w", err)
	}
	files, err := filepath.Glob("agent/container/seccomp/calls_*.go")
	if err != nil || len(files) == 0 {
		return fmt.Errorf("no tables in agent/container/seccomp: %v", err)
	}
	for _, f := range files {
		old, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var failed error
		text := table.ReplaceAllStringFunc(string(old), func(s string) string {
			name := table.FindStringSubmatch(s)[1]
			t, err := write(strings.TrimSpace(string(dir)), tables[name])
			if err != nil {
				failed = fmt.Errorf("%s: %s: %w", f, name, err)
			}
			return "const " + name + " = `\n" + t + "`"
		})
		switch {
		case failed != nil:
			return failed
		case text == string(old):
			continue
		case check:
			return fmt.Errorf("%s is not what golang.org/x/sys has: run make generate", f)
		}
		if err := os.WriteFile(f, []byte(text), 0o644); err != nil {
			return err
		}
		fmt.Println(f)
	}
	return nil
}

// write is the table of an architecture: name and number of each call, in lines.
func write(dir, arch string) (string, error) {
	src, err := os.ReadFile(filepath.Join(dir, "unix", "zsysnum_linux_"+arch+".go"))
	if err != nil {
		return "", err
	}
	var out, line strings.Builder
	for _, m := range constant.FindAllStringSubmatch(string(src), -1) {
		name := strings.ToLower(m[1])
		if name == "arch_specific_syscall" {
			continue // the first number that an architecture may use as it likes, not a call
		}
		word := name + " " + m[2]
		if line.Len() > 0 && line.Len()+1+len(word) > width {
			out.WriteString(line.String() + "\n")
			line.Reset()
		}
		if line.Len() > 0 {
			line.WriteByte(' ')
		}
		line.WriteString(word)
	}
	return out.String() + line.String() + "\n", nil
}
