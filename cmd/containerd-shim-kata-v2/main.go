// Command containerd-shim-kata-v2 is the program that containerd runs for containers with the runtime
// io.containerd.kata.v2, or io.containerd.katabuild.v2 by its other name.
//
// People have no use for it. containerd starts it with "start", which leaves a process that serves one pod, with
// "delete" to clean up, and with -info. Its configuration is that of kata-runtime.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"

	"github.com/katabuild/katabuild/runtime/events"
	"github.com/katabuild/katabuild/runtime/factory"
	"github.com/katabuild/katabuild/runtime/shim"
	"golang.org/x/sys/unix"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

// name is the runtime's name, by which containerd finds this program.
const name = "io.containerd.kata.v2"

// programs are the names that this program is there by: containerd-shim-NAME-v2 for the runtime io.containerd.NAME.v2.
// What follows kata or katabuild is the suffix of an installation.
var programs = regexp.MustCompile(`^containerd-shim-((?:kata|katabuild)(?:-([a-z0-9-]+))?)-v2$`)

// nameOf is the runtime's name for whoever ran this program by that path, and the suffix of its installation.
func nameOf(program string) (runtime, suffix string) {
	m := programs.FindStringSubmatch(filepath.Base(program))
	if m == nil {
		return name, ""
	}
	return "io.containerd." + m[1] + ".v2", m[2]
}

// serve is the action with which "start" runs this program again.
const serve = "serve"

// makeTemplate is the action with which a shim runs this program to make a template beside its pod.
const makeTemplate = "template"

// flags are containerd's, the same for every shim.
type flags struct {
	namespace, id, address, publish, bundle, socket string
	suffix, config                                  string
	debug, info, version                            bool
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-kata-v2:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	var f flags
	set := flag.NewFlagSet("containerd-shim-kata-v2", flag.ContinueOnError)
	set.StringVar(&f.namespace, "namespace", "", "containerd's namespace")
	set.StringVar(&f.id, "id", "", "id of the container")
	set.StringVar(&f.address, "address", "", "containerd's gRPC socket")
	set.StringVar(&f.publish, "publish-binary", "containerd", "program that publishes events")
	set.StringVar(&f.bundle, "bundle", "", "the container's bundle (default the working folder)")
	set.StringVar(&f.suffix, "suffix", "", "of the installation (default by this program's name)")
	set.StringVar(&f.config, shim.ConfigFlag, "", "configuration of a sandbox (set by start)")
	set.StringVar(&f.socket, "socket", "", "ignored; containerd has it")
	set.BoolVar(&f.debug, "debug", false, "log at level debug")
	set.BoolVar(&f.info, "info", false, "print what this runtime is, for containerd")
	set.BoolVar(&f.version, "v", false, "print the version")
	set.Usage = func() {
		fmt.Fprintf(set.Output(), "containerd-shim-kata-v2 is run by containerd: see docs/shim.md. Its flags and "+
			"actions (start, delete):\n")
		set.PrintDefaults()
	}
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	switch {
	case f.version:
		_, err := fmt.Fprintf(out, "containerd-shim-kata-v2:\n  Version:  %s (katabuild)\n", version)
		return err
	case f.info:
		runtime, _ := nameOf(os.Args[0])
		b, err := shim.Info(runtime, version)
		if err == nil {
			_, err = out.Write(b)
		}
		return err
	}
	if set.Arg(0) == makeTemplate {
		return factory.Serve(context.Background())
	}
	if f.bundle == "" {
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		f.bundle = dir
	}
	if f.id == "" || f.namespace == "" {
		return errors.New("containerd gives -namespace and -id; this program is not for people (kata-runtime is)")
	}
	switch action := set.Arg(0); action {
	case "start":
		return start(f, in, out)
	case "delete":
		b, err := shim.Delete(shim.DeleteOptions{ID: f.id, Namespace: f.namespace, Address: f.address,
			Bundle: f.bundle})
		if err == nil {
			_, err = out.Write(b)
		}
		return err
	case serve:
		return serveContainerd(f)
	default:
		return fmt.Errorf("action %q: want start or delete", action)
	}
}

func start(f flags, in io.Reader, out io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"-namespace", f.namespace, "-id", f.id, "-address", f.address, "-publish-binary", f.publish,
		"-bundle", f.bundle}
	if f.debug {
		args = append(args, "-debug")
	}
	// The other process runs the file itself, whose name says nothing.
	if _, suffix := nameOf(os.Args[0]); suffix != "" {
		args = append(args, "-suffix", suffix)
	}
	// containerd 2 says which versions of the service it knows; one that says nothing knows version 2.
	newest, _ := strconv.Atoi(os.Getenv("MAX_SHIM_VERSION")) // 0 for what is no number
	answer, err := shim.Start(shim.StartOptions{
		ID: f.id, Namespace: f.namespace, Address: f.address, Bundle: f.bundle, MaxVersion: newest, Self: self,
		Args: append(args, serve), Env: os.Environ(), Input: in,
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, answer)
	return err
}

// memoryLimit is where the collector begins to work harder, in bytes: the shim is there for as long as the pod, and
// mostly idle.
const memoryLimit = 24 << 20

func serveContainerd(f flags) error {
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(memoryLimit)
	level := slog.LevelInfo
	if f.debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.DiscardHandler)
	if w, err := shim.OpenLog(f.bundle); err == nil {
		// kata-runtime logs, and Kata Containers' log parser, ask for name, pid and source.
		log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})).With("name",
			"containerd-shim-kata-v2", "pid", os.Getpid(), "sandbox", f.id, "source", "katabuild-shim")
	}
	l, err := shim.Inherited()
	if err != nil {
		log.Error(err.Error())
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGPIPE)
	publish := events.Target{Address: os.Getenv("TTRPC_ADDRESS")}
	if publish.Address == "" {
		publish.Command = []string{f.publish, "--address", f.address, "publish"}
	}
	s := shim.New(shim.Options{
		Namespace: f.namespace, Publish: publish, Environment: os.Getenv("KATA_CONF_FILE"), Log: log, Version: version,
		Config: f.config, Suffix: f.suffix, Maker: []string{"/proc/self/exe", makeTemplate},
	}, stop)
	log.Debug("serves", "version", version, "bundle", filepath.Base(f.bundle))
	err = s.Serve(ctx, l)
	if e := s.Close(); e != nil {
		log.Error("end", "err", e)
		err = errors.Join(err, e)
	}
	return errors.Join(err, l.Remove())
}
