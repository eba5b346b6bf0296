package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/builder/store"
	"github.com/katabuild/katabuild/internal/usage"
)

func (a *app) storeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "store", Short: "look after the store: gc, verify, du; serve it",
		Long: `The store keeps what builds need and make, by digest, and verifies it whenever it is read. It may be
deleted at any time; it may be shared by any number of katabuild processes.

Blobs are named by their digests. Records, which say what a step made, are signed with a key of yours, made at the
first use: what another wrote, or what was changed, counts as missing, and the step runs again. To share hits with
somebody (a CI cache), give each other's "katabuild store key" to "katabuild store trust". The key is store.key in
the folder katabuild of your configuration folder; KATABUILD_STORE_KEY names another file. A store that other users
own or may write to needs --store-shared.`,
	}
	c.AddCommand(a.gcCmd(), a.storeVerifyCmd(), a.duCmd(), a.keyCmd(), a.trustCmd(), a.serveCmd())
	return c
}

func (a *app) gcCmd() *cobra.Command {
	var unused string
	var objects float64
	c := &cobra.Command{
		Use: "gc", Args: cobra.NoArgs, Short: "remove what has not been used for a while",
		Long: `gc forgets steps that no build has used for --unused-for, then removes every blob that no step made or
needs any more, what was set aside as corrupt, what killed processes left, and of compiled objects what was of use
longest ago, down to --objects. It waits until no build uses the store, and builds wait for it.`,
	}
	c.Flags().StringVar(&unused, "unused-for", "30d",
		"age of what may go: a number and d, h or m; 0 removes every step")
	c.Flags().Float64Var(&objects, "objects", float64(store.MaxObjects)/1e9,
		"gigabytes of compiled objects that may stay; 0 removes all")
	c.RunE = func(c *cobra.Command, _ []string) error {
		age, err := parseAge(unused)
		if err != nil {
			return &usage.Error{Err: err}
		}
		if !(objects >= 0 && objects < 1e6) {
			return &usage.Error{Err: fmt.Errorf("--objects %v: want gigabytes, 0 or more", objects)}
		}
		s, err := a.openStore()
		if err != nil {
			return err
		}
		waiting := func() { fmt.Fprintln(a.err, "waiting for the builds that use the store") }
		r, err := s.GC(c.Context(), store.GCOptions{Now: time.Now(), UnusedFor: age, Waiting: waiting,
			MaxObjects: int64(objects * 1e9)})
		if err != nil {
			return err
		}
		fmt.Fprintf(a.out, "removed %d steps and %d blobs, %.1f MB\n", r.Actions, r.Blobs, float64(r.Bytes)/1e6)
		if r.Objects.Files > 0 {
			fmt.Fprintf(a.out, "removed %d files of compiled objects, %.1f MB\n", r.Objects.Files,
				float64(r.Objects.Bytes)/1e6)
		}
		return nil
	}
	return c
}

// parseAge reads 30d, 12h, 5m and 0, which stands for the smallest age there is.
func parseAge(s string) (time.Duration, error) {
	if s == "0" {
		return 1, nil
	}
	if d, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(d); err == nil && n > 0 && n < 100_000 {
			return time.Duration(n) * 24 * time.Hour, nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return d, nil
	}
	return 0, fmt.Errorf("--unused-for %q: want a number and d, h or m, such as 30d", s)
}

func (a *app) storeVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Args: cobra.NoArgs, Short: "read everything and compare it with its digest",
		RunE: func(*cobra.Command, []string) error {
			s, err := a.openStore()
			if err != nil {
				return err
			}
			found, err := s.Verify()
			if err != nil {
				return err
			}
			for _, p := range found {
				fmt.Fprintf(a.out, "%s %s\n", p.Path, p.What)
				if p.Untrusted != "" {
					fmt.Fprintf(a.out, "  to trust the writer: katabuild store trust %s\n", p.Untrusted)
				}
			}
			if len(found) > 0 {
				return fmt.Errorf(
					"store %s: %d problems; builds make again what is damaged, `katabuild store gc` removes it",
					s.Dir(), len(found))
			}
			u, err := s.DU()
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "store %s: clean, %d blobs, %d steps\n", s.Dir(), u.Blobs, u.Actions)
			return nil
		},
	}
}

func (a *app) duCmd() *cobra.Command {
	return &cobra.Command{
		Use: "du", Args: cobra.NoArgs, Short: "say how much the store holds",
		RunE: func(*cobra.Command, []string) error {
			s, err := a.openStore()
			if err != nil {
				return err
			}
			u, err := s.DU()
			if err != nil {
				return err
			}
			fmt.Fprintf(a.out, "store %s\n%d blobs, %.1f MB\n%d steps\n%.1f MB of running or interrupted steps\n",
				s.Dir(), u.Blobs, float64(u.BlobBytes)/1e6, u.Actions, float64(u.Temp)/1e6)
			fmt.Fprintf(a.out, "%d files of compiled objects, %.1f MB\n", u.ObjectFiles, float64(u.ObjectBytes)/1e6)
			if u.Corrupt > 0 {
				fmt.Fprintf(a.out, "%d blobs set aside as corrupt\n", u.Corrupt)
			}
			return nil
		},
	}
}

func (a *app) keyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "key", Args: cobra.NoArgs, Short: "print the public key that your records are signed with",
		RunE: func(*cobra.Command, []string) error {
			k, err := a.storeKey()
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out, k.Writer())
			return nil
		},
	}
}

func (a *app) trustCmd() *cobra.Command {
	return &cobra.Command{
		Use: "trust [KEY [NAME]]", Args: cobra.RangeArgs(0, 2),
		Short: "believe another writer's records, or list whose are believed",
		Long: `trust adds a writer's public key, as "katabuild store key" prints it for them, to the list of those
whose records you believe. NAME is for you. Without arguments it prints the list. To take a writer out, remove the
line from the file that it names.`,
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.storeFolder()
			if err != nil {
				return err
			}
			_, file := a.keyFiles(dir)
			if len(args) == 0 {
				list, err := store.ReadTrusted(file)
				if err != nil {
					return err
				}
				fmt.Fprintf(a.out, "%d writers besides you, listed in %s\n", len(list), file)
				for _, w := range list {
					fmt.Fprintln(a.out, w)
				}
				return nil
			}
			w, err := store.ParseWriter(args[0])
			if err != nil {
				return &usage.Error{Err: err}
			}
			return store.Trust(file, w, strings.Join(args[1:], " "))
		},
	}
}
