package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/katabuild/katabuild/internal/regular"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/releases/folder"
	"github.com/katabuild/katabuild/releases/index"
	"github.com/katabuild/katabuild/releases/judge"
	"github.com/katabuild/katabuild/releases/keys"
)

// maxPassphrase bounds a passphrase, in bytes.
const maxPassphrase = 4096

func (h *Host) keysCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "keys", Short: "draw keys that sign releases, and look at them",
		Long: `keys draws the keys that "katabuild sign" uses, and says what policies must name. A key is a file in the
form PKCS#8, encrypted with a passphrase or not, that nobody else can read; FILE.pub is its public half, for
everybody. "openssl pkey" reads both.`,
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	c.AddCommand(h.newKeyCmd(), h.showKeyCmd())
	return c
}

func (h *Host) newKeyCmd() *cobra.Command {
	var kind, passphraseFile string
	var plain bool
	c := &cobra.Command{
		Use: "new FILE", Args: cobra.ExactArgs(1), Short: "draw a key and write it to FILE and FILE.pub",
		Example: "  katabuild keys new release.key\n" +
			"  katabuild keys new release.key --type ecdsa-p256 --passphrase-file secret",
	}
	c.Flags().StringVar(&kind, "type", keys.Ed25519, "what kind of key: "+keys.Ed25519+" or "+keys.ECDSA)
	c.Flags().StringVar(&passphraseFile, "passphrase-file", "", passphraseHelp)
	c.Flags().BoolVar(&plain, "no-passphrase", false, "leave the key unencrypted: whoever reads the file can sign")
	usage.Rules(c, usage.Rule{Flag: "no-passphrase", Excludes: []string{"passphrase-file"}})
	c.RunE = func(_ *cobra.Command, args []string) error {
		if kind != keys.Ed25519 && kind != keys.ECDSA {
			return &usage.Error{Err: fmt.Errorf("--type %q: want %s or %s", kind, keys.Ed25519, keys.ECDSA)}
		}
		var passphrase []byte
		if !plain {
			var err error
			if passphrase, err = h.passphrase(passphraseFile, true); err != nil {
				return err
			}
		}
		k, err := keys.Write(args[0], kind, passphrase)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(h.Out, "%s: %s key %s; give %s%s to those who shall accept what it signs\n", args[0], kind,
			k.ID, args[0], keys.PublicSuffix)
		return err
	}
	return c
}

func (h *Host) showKeyCmd() *cobra.Command {
	var policy bool
	c := &cobra.Command{
		Use: "show [FILE...]", Args: cobra.ArbitraryArgs,
		Short: "print the digests of public keys; without FILE, this host's own",
		Example: "  katabuild keys show release.key.pub\n" +
			"  katabuild keys show --policy alice.pub bob.pub > release-policy.yaml",
	}
	c.Flags().BoolVar(&policy, "policy", false,
		"print a policy that asks for all of them; edit names, threshold and channels")
	c.RunE = func(_ *cobra.Command, args []string) error {
		all, err := h.publicKeys(args)
		if err != nil {
			return err
		}
		if policy {
			return h.printPolicy(all)
		}
		for _, k := range all {
			if _, err := fmt.Fprintf(h.Out, "%s %s %s\n", k.ID, k.Kind(), k.name); err != nil {
				return err
			}
		}
		return nil
	}
	return c
}

type namedKey struct {
	keys.Public
	name string
}

func (h *Host) publicKeys(files []string) ([]namedKey, error) {
	if len(files) == 0 {
		own, err := h.own()
		if err != nil {
			return nil, err
		}
		return []namedKey{{own.Public(), "this host"}}, nil
	}
	var all []namedKey
	for _, f := range files {
		k, err := keys.ReadPublic(f)
		if err != nil {
			return nil, err
		}
		all = append(all, namedKey{k, f})
	}
	return all, nil
}

func (h *Host) printPolicy(all []namedKey) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "version: 1\nthreshold: %d\nchannels: [stable]\nkeys:\n", len(all))
	for _, k := range all {
		fmt.Fprintf(&b, "  - name: %q\n    public_key: |\n      %s\n", k.name,
			strings.ReplaceAll(strings.TrimSpace(string(k.PEM())), "\n", "\n      "))
	}
	_, err := h.Out.Write(b.Bytes())
	return err
}

// passphraseHelp is about --passphrase-file.
const passphraseHelp = "`file` whose first line is the key's passphrase (default: it is asked for on the terminal)"

// passphrase reads one from the first line of a file, or asks for it on the terminal; twice, where it is new.
func (h *Host) passphrase(file string, fresh bool) ([]byte, error) {
	if file == "" {
		return h.askPassphrase(fresh)
	}
	data, err := regular.ReadFile(file, maxPassphrase)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if len(line) == 0 {
		return nil, fmt.Errorf("%s: its first line, the passphrase, is empty", file)
	}
	return line, nil
}

func (h *Host) askPassphrase(fresh bool) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, &usage.Error{Err: errors.New("there is no terminal to ask for the passphrase: name a file with " +
			"--passphrase-file, or, for a new key, say --no-passphrase")}
	}
	defer tty.Close()
	first, err := hidden(tty, "passphrase of the key: ")
	if err != nil || !fresh {
		return first, err
	}
	second, err := hidden(tty, "once more: ")
	if err == nil && (!bytes.Equal(first, second) || len(first) == 0) {
		err = errors.New("the passphrases differ, or are empty")
	}
	return first, err
}

// hidden reads a line that the terminal does not show.
func hidden(tty *os.File, prompt string) (line []byte, err error) {
	fd := int(tty.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *old
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &quiet); err != nil {
		return nil, err
	}
	defer func() {
		fmt.Fprintln(tty)
		err = errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETSF, old))
	}()
	fmt.Fprint(tty, prompt)
	b := make([]byte, 1)
	for len(line) < maxPassphrase {
		if n, err := tty.Read(b); err != nil || n == 0 || b[0] == '\n' {
			return line, err
		}
		line = append(line, b[0])
	}
	return line, nil
}

// keyFlags say which key signs.
type keyFlags struct{ file, command, passphrase string }

func (f *keyFlags) add(fl *pflag.FlagSet) {
	fl.StringVar(&f.file, "key", "", "`file` of the key that signs, as katabuild keys new writes it")
	fl.StringVar(&f.command, "key-command", "",
		"a `program`, and its arguments, that has the key and signs: for key services and tokens")
	fl.StringVar(&f.passphrase, "passphrase-file", "", passphraseHelp)
}

func (h *Host) signer(ctx context.Context, f keyFlags) (keys.Signer, error) {
	switch {
	case (f.file == "") == (f.command == ""):
		return nil, &usage.Error{Err: errors.New("name one of --key FILE and --key-command PROGRAM; see: " +
			"katabuild sign --help")}
	case f.command != "":
		return keys.FromCommand(ctx, f.command, h.Err)
	}
	return keys.Read(f.file, func() ([]byte, error) { return h.passphrase(f.passphrase, false) })
}

// own is this host's own key.
func (h *Host) own() (keys.Signer, error) {
	k, err := h.HostKey()
	if err != nil {
		return nil, err
	}
	return keys.FromPrivate(k)
}

func (h *Host) signCmd() *cobra.Command {
	var f keyFlags
	c := &cobra.Command{
		Use: "sign DIR (--key FILE | --key-command PROGRAM)", Args: cobra.ExactArgs(1),
		Short: "add a signature to a release, once everything in it has been checked",
		Long: `sign reads everything in a release, checks that each document is about the guest that it lies with, and
adds a signature over the index, which names every byte by digest, to index.json.dsse. Signatures of others stay, so
that several people sign one release each on their own host. What fits is signed; whose it is, is for the signer to
know.

With --key-command a program signs that somebody else wrote: for a key service, or a token. docs/formats/signer.md is
what it must do.`,
		Example: `  katabuild sign out/release --key release.key
  katabuild sign out/release --key-command "my-kms-signer --key 42"`,
	}
	f.add(c.Flags())
	usage.Rules(c, usage.Rule{Flag: "passphrase-file", Needs: "key"})
	c.RunE = func(c *cobra.Command, args []string) error { return h.sign(c.Context(), f, args[0]) }
	return c
}

func (h *Host) sign(ctx context.Context, f keyFlags, dir string) (err error) {
	by, err := h.signer(ctx, f)
	if err != nil {
		return err
	}
	to, err := folder.Create(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	head, err := to.Index(ctx)
	if err != nil {
		return err
	}
	x, err := index.Decode(head.Index)
	if err != nil {
		return err
	}
	if err := judge.Contents(ctx, x, to, claims); err != nil {
		return err
	}
	if head.Envelope, err = judge.Sign(ctx, head.Index, head.Envelope, by); err != nil {
		return err
	}
	if err := to.Finish(ctx, head); err != nil {
		return err
	}
	_, err = fmt.Fprintf(h.Out, "%s: signed with %s\n", dir, by.Public().ID)
	return err
}
