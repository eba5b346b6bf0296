package main

import (
	"encoding/hex"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/runtime/attest"
)

// guestDir is the folder of a guest that the user named, or the default one.
func guestDir(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return "out/default"
}

// readGuest reads the manifest of a guest. pin is a digest the user knows it must have, or empty.
func readGuest(dir, pin string) (*manifest.Manifest, digest.Digest, error) {
	var want digest.Digest
	if pin != "" {
		var err error
		if want, err = digest.Parse(pin); err != nil {
			return nil, "", &usageError{fmt.Errorf("--manifest-digest: %w", err)}
		}
	}
	m, d, err := manifest.Read(dir, want)
	if err != nil {
		return nil, "", fmt.Errorf("guest %s: %w", dir, err)
	}
	return m, d, nil
}

func (a *app) verifyCmd() *cobra.Command {
	var reportFile, nonce, pin string
	var asJSON bool
	c := &cobra.Command{
		Use: "verify [GUEST]", Args: cobra.MaximumNArgs(1), Short: "check a guest's files, and a running guest's report, against its manifest",
		Long: `verify checks every file of a guest (a folder made by "katabuild build", default out/default) against manifest.json,
and with --report also what a running guest said of itself. Each claim is met or named, with both values.

The result is "intact" when all files are right, "attested" when a report is right too, and "failed" otherwise.
A report is a statement by the guest: it catches the wrong kernel, agent or command line, not a hostile guest.`,
		Example: `  katabuild verify out/default
  katabuild verify out/default --report report.json --nonce 00112233445566778899aabbccddeeff --json`,
	}
	c.Flags().StringVar(&reportFile, "report", "", "a report, as `katabuild boot --report` writes it")
	c.Flags().StringVar(&nonce, "nonce", "", "the nonce the report must hold, in hexadecimal")
	c.Flags().StringVar(&pin, "manifest-digest", "", "the digest the manifest must have, from a source you trust")
	c.Flags().BoolVar(&asJSON, "json", false, "print the verdict as JSON")
	c.RunE = func(_ *cobra.Command, args []string) error {
		dir := guestDir(args)
		m, d, err := readGuest(dir, pin)
		if err != nil {
			return err
		}
		v := &verdict.Verdict{Guest: m.Name, Manifest: d}
		if v.Claims, err = attest.Files(m, dir); err != nil {
			return err
		}
		if nonce != "" && reportFile == "" {
			return &usageError{fmt.Errorf("--nonce goes with --report")}
		}
		if reportFile != "" {
			var n []byte
			if nonce != "" {
				if n, err = hex.DecodeString(nonce); err != nil {
					return &usageError{fmt.Errorf("--nonce: %w", err)}
				}
			}
			data, err := os.ReadFile(reportFile)
			if err != nil {
				return err
			}
			r, err := report.Decode(data)
			if err != nil {
				return fmt.Errorf("%s: %w", reportFile, err)
			}
			v.Report = digest.Of(data)
			v.Claims = append(v.Claims, attest.Report(m, r, n)...)
		}
		v.Judge(reportFile != "")
		return a.printVerdict(v, asJSON)
	}
	return c
}

func (a *app) printVerdict(v *verdict.Verdict, asJSON bool) error {
	out := []byte(v.Table())
	if asJSON {
		var err error
		if out, err = v.Encode(); err != nil {
			return err
		}
	}
	if _, err := a.out.Write(out); err != nil {
		return err
	}
	if v.Result == verdict.Failed {
		return errVerdict
	}
	return nil
}
