package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/katabuild/katabuild/builder"
	"github.com/katabuild/katabuild/cmd/katabuild/look"
	"github.com/katabuild/katabuild/cmd/katabuild/release"
	"github.com/katabuild/katabuild/inspect"
	"github.com/katabuild/katabuild/internal/digest"
	"github.com/katabuild/katabuild/internal/manifest"
	"github.com/katabuild/katabuild/internal/recipetar"
	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/internal/report"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/internal/verdict"
	"github.com/katabuild/katabuild/releases/index"
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
			return nil, "", &usage.Error{Err: fmt.Errorf("--manifest-digest: %w", err)}
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
	var extensions []string
	var asJSON, keepKernel bool
	var rebuild, policy string
	var rf recipeFlags
	var again release.AgainFlags
	c := &cobra.Command{
		Use: "verify [GUEST|RELEASE] [--rebuild [RECIPE]]", Args: cobra.MaximumNArgs(2),
		Short: "check a guest's files, and a running guest's report, against its manifest; or a release",
		Long: `verify checks every file of a guest (a folder made by "katabuild build", default out/default) against
manifest.json, and with --report also what a running guest said of itself. Each claim is met or named, with both values.

The result is "intact" when all files are right, "attested" when a report is right too, and "failed" otherwise.
A report is a statement by the guest: it catches the wrong kernel, agent or command line, not a hostile guest.

With --rebuild the guest is built once more from its recipe and lock, in a store of its own that has the inputs and
nothing made of them, and every file is compared; what differs is listed as "katabuild diff" lists it. Without RECIPE
the recipe is the one that lies beside the guest, or in the release.

Of a release, a folder made by "katabuild release", it checks signatures, channel and versions by a policy, that no
guest is older than one that was accepted on this host before, and every file; a release that is refused ends it with
exit code 3 and the name of the reason. With --rebuild and a key it says in a signed statement that the guests of the
release were reproduced, and puts that beside the release; where one byte differs it says nothing.`,
		Example: `  katabuild verify out/default
  katabuild verify out/default --report report.json --nonce 00112233445566778899aabbccddeeff --json
  katabuild verify out/default --rebuild recipes/default --keep-kernel
  katabuild verify out/release --policy release-policy.yaml
  katabuild verify out/release --rebuild --guest tiny --key my.key`,
	}
	c.Flags().StringVar(&reportFile, "report", "", "a report: a `file` that katabuild boot --report wrote")
	c.Flags().StringVar(&nonce, "nonce", "", "the nonce the report must hold, in hexadecimal")
	c.Flags().StringArrayVar(&extensions, "extension", nil, "with --report: "+extensionHelp)
	c.Flags().StringVar(&pin, "manifest-digest", "", "the digest the manifest must have, from a source you trust")
	c.Flags().BoolVar(&asJSON, "json", false, "print the verdict as JSON")
	c.Flags().StringVar(&rebuild, "rebuild", "", "build the guest again, of this `RECIPE` or its own, and compare")
	c.Flags().Lookup("rebuild").NoOptDefVal = ownRecipe
	c.Flags().BoolVar(&keepKernel, "keep-kernel", false,
		"with --rebuild: take the kernel, which takes minutes, from the store")
	c.Flags().StringVar(&policy, "policy", "", "of a release: "+release.PolicyHelp)
	build := pflag.NewFlagSet("build", pflag.ContinueOnError)
	rf.addBuild(build)
	c.Flags().AddFlagSet(build)
	again.Add(c.Flags())
	toRebuild := append([]string{"keep-kernel"}, again.Names()...)
	build.VisitAll(func(f *pflag.Flag) {
		if !strings.HasPrefix(f.Name, "registry-") { // a release may lie in one
			toRebuild = append(toRebuild, f.Name)
		}
	})
	usage.Rules(c, slices.Concat(
		[]usage.Rule{{Flag: "rebuild", Excludes: []string{"report", "nonce", "extension", "json"},
			Why: "which compares files alone"},
			{Flag: "passphrase-file", Needs: "key"},
			{Flag: "keep-kernel", Excludes: []string{"key", "key-command"}, Why: "with which nothing may be left out"}},
		usage.Need("report", "nonce", "extension"), usage.Need("rebuild", toRebuild...))...)
	c.RunE = func(c *cobra.Command, args []string) error {
		dir, recipe, err := verifyArgs(rebuild, args)
		if err != nil {
			return err
		}
		if release.IsRelease(dir) {
			how := release.Again{Policy: policy, Recipe: recipe, Lock: rf.lock, Flags: again}
			return a.verifyRelease(c, rf, dir, rebuild != "", keepKernel, how)
		}
		if fl := c.Flags(); fl.Changed("guest") || fl.Changed("key") || fl.Changed("key-command") {
			return &usage.Error{Err: fmt.Errorf("--guest and keys are for releases, and %s is none", dir)}
		}
		if policy != "" {
			return &usage.Error{Err: fmt.Errorf("--policy is for releases, and %s is none", dir)}
		}
		m, d, err := readGuest(dir, pin)
		if err != nil {
			return err
		}
		if rebuild != "" {
			return a.rebuildGuest(c.Context(), rf, recipe, dir, keepKernel)
		}
		files, err := attest.Files(m, dir, nil)
		if err != nil {
			return err
		}
		var reported *attest.Reported
		if reportFile != "" {
			var n []byte
			if nonce != "" {
				if n, err = hex.DecodeString(nonce); err != nil {
					return &usage.Error{Err: fmt.Errorf("--nonce: %w", err)}
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
			attached, err := readExtensions(extensions)
			if err != nil {
				return err
			}
			reported = &attest.Reported{Report: r, Raw: data, Boot: attest.Boot{Nonce: n, Extensions: named(attached)}}
		}
		return a.printVerdict(attest.Verdict(m, d, files, reported), asJSON)
	}
	return c
}

// ownRecipe is the value of --rebuild without one.
const ownRecipe = "*"

// verifyArgs tells the guest or release from the recipe, which is empty for its own: `verify [GUEST]`, `verify GUEST
// --rebuild`, `verify [GUEST] --rebuild RECIPE` and `verify [GUEST] --rebuild=RECIPE`.
func verifyArgs(rebuild string, args []string) (dir, recipe string, err error) {
	if rebuild != ownRecipe {
		if len(args) > 1 {
			return "", "", &usage.Error{Err: fmt.Errorf("%d guests or releases; want one", len(args))}
		}
		return guestDir(args), rebuild, nil
	}
	switch {
	case len(args) == 0:
		return guestDir(nil), "", nil
	case len(args) == 2 && isRecipe(args[0]) && !isRecipe(args[1]):
		return args[1], args[0], nil
	case len(args) == 2:
		return args[0], args[1], nil
	case isRecipe(args[0]):
		return guestDir(nil), args[0], nil
	}
	return args[0], "", nil
}

// verifyRelease verifies one by a policy, or builds guests of it once more. Flags that are about guests make no sense
// with it.
func (a *app) verifyRelease(c *cobra.Command, rf recipeFlags, at string, rebuild, keepKernel bool,
	how release.Again) error {
	var wrong error
	c.Flags().Visit(func(f *pflag.Flag) {
		of := f.Name != "policy" && !strings.HasPrefix(f.Name, "registry-") && c.InheritedFlags().Lookup(f.Name) == nil
		if of && wrong == nil && (!rebuild || f.Name == "arch" || f.Name == "manifest-digest") {
			wrong = &usage.Error{Err: fmt.Errorf("--%s is for guests, and %s is a release", f.Name, at)}
		}
	})
	if wrong != nil {
		return wrong
	}
	access, err := rf.registry.access(a.getenv)
	if err != nil {
		return err
	}
	if !rebuild {
		return a.releases().Verify(c.Context(), at, how.Policy, access)
	}
	how.Build = func(ctx context.Context, g *index.Guest, dir, recipe, lock string) error {
		m, _, err := readGuest(dir, "")
		if err != nil {
			return err
		}
		f := rf
		f.arch, f.lock = g.Arch, lock
		f.toolchain = cmp.Or(f.toolchain, m.Kernel.ToolchainKind)
		return a.rebuild(ctx, f, recipe, dir, keepKernel)
	}
	return a.releases().Reproduce(c.Context(), at, how, access)
}

// rebuildGuest builds a guest again, of a recipe or, where that is empty, of the one beside it.
func (a *app) rebuildGuest(ctx context.Context, f recipeFlags, recipe, dir string, keepKernel bool) (err error) {
	if recipe != "" {
		return a.rebuild(ctx, f, recipe, dir, keepKernel)
	}
	data, err := regular.ReadFile(filepath.Join(dir, recipetar.FileName), recipetar.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		return &usage.Error{Err: fmt.Errorf("no recipe lies beside %s: name it with --rebuild RECIPE", dir)}
	}
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "katabuild-again-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if recipe, err = release.UnpackRecipe(data, tmp); err != nil {
		return err
	}
	m, _, err := readGuest(dir, "")
	if err != nil {
		return err
	}
	f.lock = cmp.Or(f.lock, filepath.Join(dir, builder.LockBeside))
	f.arch = cmp.Or(f.arch, m.Arch)
	return a.rebuild(ctx, f, recipe, dir, keepKernel)
}

// rebuild builds a guest again and says what differs.
func (a *app) rebuild(ctx context.Context, f recipeFlags, recipe, dir string, keepKernel bool) (err error) {
	cfg, err := a.config(ctx, f, []string{recipe})
	if err != nil {
		return err
	}
	v, err := a.view()
	if err != nil {
		return err
	}
	cfg.Report = v.Event
	temp, remove, err := builder.RebuildDir(cfg.Store)
	if err != nil {
		v.Close()
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	var keep []string
	if keepKernel {
		keep = []string{builder.KernelStep}
	}
	g, err := builder.Open(ctx, cfg)
	if err == nil {
		_, err = g.Rebuild(ctx, nil, keep, temp)
	}
	v.Close()
	if err != nil {
		return err
	}
	again := filepath.Join(temp, "guest")
	_, want, err1 := readGuest(dir, "")
	m, got, err2 := readGuest(again, "")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	claims, err := attest.Files(m, dir, nil)
	if err != nil {
		return err
	}
	claims = append(claims, verdict.Claim{Name: "manifest", Want: string(want), Got: string(got), Met: want == got})
	verdictOf := attest.Verdict(m, want, claims, nil)
	if verdictOf.Result != verdict.Failed {
		fmt.Fprintf(a.out, "%s: built again, and every byte is the same\n", m.Name)
		return nil
	}
	if _, err := io.WriteString(a.out, verdictOf.Table()); err != nil {
		return err
	}
	changes, err := inspect.Guests(ctx, dir, again, os.TempDir(), true)
	if err != nil {
		return err
	}
	if err := look.PrintChanges(a.out, changes); err != nil {
		return err
	}
	return errVerdict
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
