package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/katabuild/katabuild/ci/bench/starts"
)

// What a page has around the tables that are made.
const (
	tablesBegin = "<!-- The table is made by `make bench-start`; DO NOT EDIT. -->\n"
	tablesEnd   = "<!-- The end of the table. -->\n"
)

// startMain prints the table of starts that TestBenchStart has measured; with -page it goes into that page, and its
// picture beside it.
func startMain(args []string) error {
	fl := flag.NewFlagSet("bench start", flag.ContinueOnError)
	from := fl.String("from", "out/bench-start.json", "what was measured")
	page := fl.String("page", "", "page to write the table into; its picture gets its name, with .svg")
	if err := fl.Parse(args); err != nil {
		return err
	}
	b, err := os.ReadFile(*from)
	if err != nil {
		return err
	}
	var f starts.Figures
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("%s: %w", *from, err)
	}
	fmt.Print(f.Markdown())
	if *page == "" {
		return nil
	}
	old, err := os.ReadFile(*page)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), tablesBegin)
	_, after, ended := strings.Cut(rest, tablesEnd)
	if !found || !ended {
		return fmt.Errorf("%s: no lines %q and %q to write between", *page, strings.TrimSpace(tablesBegin),
			strings.TrimSpace(tablesEnd))
	}
	text := before + tablesBegin + "\n" + f.Markdown() + "\n" + tablesEnd + after
	return errors.Join(os.WriteFile(*page, []byte(text), 0o644),
		os.WriteFile(strings.TrimSuffix(*page, filepath.Ext(*page))+".svg", []byte(f.SVG()), 0o644))
}
