// Command changelog writes releases/CHANGELOG.md from the notes; with a version and a day it moves them into the page
// of a release first. usage: changelog [-release VERSION -day DAY] [DIR]
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/katabuild/katabuild/internal/atomicfile"
	"github.com/katabuild/katabuild/releases/changelog"
)

func main() {
	version := flag.String("release", "", "`version` whose page the notes become")
	day := flag.String("day", "", "`day` of that release, such as 2026-11-30")
	flag.Parse()
	dir := "releases"
	if flag.NArg() > 0 {
		dir = flag.Arg(0)
	}
	if err := run(dir, *version, *day); err != nil {
		fmt.Fprintf(os.Stderr, "changelog: %v\n", err)
		os.Exit(1)
	}
}

func run(dir, version, day string) error {
	if version != "" {
		page, err := changelog.Release(dir, version, day)
		if err != nil {
			return err
		}
		fmt.Println(page)
	}
	text, err := changelog.Write(os.DirFS(dir))
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, changelog.FileName), text, 0o644)
}
