// Command csi-kata-directvolume is a CSI driver on a node: its volumes are files of the node, which the guests of pods
// get as disks and mount themselves.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/katabuild/katabuild/internal/manpage"
	"github.com/katabuild/katabuild/internal/usage"
	"github.com/katabuild/katabuild/runtime/csi"
	"github.com/katabuild/katabuild/runtime/csi/images"
	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/record"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

func main() { os.Exit(run(os.Args[1:], &app{out: os.Stdout, err: os.Stderr})) }

// Exit codes; the help lists them.
const (
	exitError = 1 // something is wrong; the last line says what
	exitUsage = 2 // the command line makes no sense
)

// run does what args ask for and returns the exit code.
func run(args []string, a *app) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(a.err, "csi-kata-directvolume: %v\n", err)
	if _, ok := errors.AsType[*usage.Error](err); ok {
		return exitUsage
	}
	return exitError
}

// app is what the command has of the world, and its flags.
type app struct {
	out, err io.Writer

	endpoint, storage, level string
	registrar                csi.Registrar
	driver                   csi.Options
	capacity                 int64
}

const long = `csi-kata-directvolume is a driver of the Container Storage Interface for one node, under the name that
Kata Containers' driver has. Each volume is a sparse file with a file system in it. A pod that kata runs gets it as a
disk, which its guest mounts: nothing is mounted on the host, and no loop device is used. Pods of other runtimes find an
empty folder.

Volumes are made with mkfs.ext4 or mkfs.xfs, and grow with e2fsck and resize2fs, which the packages e2fsprogs and
xfsprogs have. The driver serves until it is told to end, and may be killed: what it was making is cleared away when it
starts again.

Exit codes: 0 told to end, 1 something is wrong, 2 wrong usage.`

// Defaults.
const (
	defaultEndpoint = "unix:///var/run/csi.sock" // Kata's
	defaultStorage  = "/var/lib/csi-kata-directvolume"
	defaultLargest  = 1 << 40 // Kata's
)

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "csi-kata-directvolume", Short: "give pods volumes that their guests mount", Long: long, Version: version,
		Args: cobra.NoArgs,
		Example: `  csi-kata-directvolume --nodeid node1 --endpoint unix:///run/csi.sock
  csi-kata-directvolume --nodeid node1 --endpoint unix:///var/lib/kubelet/plugins/csi-kata-directvolume/csi.sock \
    --kubelet-registration-path /var/lib/kubelet/plugins/csi-kata-directvolume/csi.sock`,
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetVersionTemplate("csi-kata-directvolume {{.Version}}\n")
	f := root.Flags()
	f.StringVar(&a.endpoint, "endpoint", defaultEndpoint, "`socket` to serve at")
	f.StringVar(&a.driver.Name, "drivername", csi.DefaultName, "the driver's `name`")
	f.StringVar(&a.driver.Node, "nodeid", "", "the node's `name`, as Kubernetes has it; needed")
	f.StringVar(&a.storage, "storagepath", defaultStorage,
		"`folder` of the volumes' files, which the driver has to itself")
	f.Int64Var(&a.capacity, "capacity", 0,
		"`bytes` that all volumes may have together; 0 is what the folder's file system has room for")
	f.Int64Var(&a.driver.MaxSize, "max-volume-size", defaultLargest, "`bytes` that one volume may have; 0 is no bound")
	f.BoolVar(&a.driver.Topology, "enable-topology", true, "tell that volumes are of this node alone")
	f.StringVar(&a.registrar.Endpoint, "kubelet-registration-path", "",
		"tell the kubelet of the driver, whose socket it finds at this `path`; empty leaves that to others")
	f.StringVar(&a.registrar.Folder, "plugin-registration-path", csi.DefaultRegistry,
		"`folder` in which the kubelet looks for drivers")
	f.StringVar(&a.driver.Volumes, "volumes", directvolume.Root, "`folder` of the descriptions that runtimes read")
	f.StringVar(&a.driver.Dirs.State, "root", record.DefaultState, "`folder` of the pods' records and sockets")
	f.StringVar(&a.level, "log-level", "info", "what is logged: debug, info, warn or error")
	usage.Rules(root, usage.Need("kubelet-registration-path", "plugin-registration-path")...)
	root.RunE = func(c *cobra.Command, _ []string) error { return a.serve(c.Context()) }
	root.AddCommand(manpage.Command(root))
	usage.Apply(root)
	return root
}

// wrong is an error of the command line.
func wrong(format string, args ...any) error { return &usage.Error{Err: fmt.Errorf(format, args...)} }

// serve answers calls until ctx ends.
func (a *app) serve(ctx context.Context) (err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.level)); err != nil {
		return wrong("--log-level %q: want debug, info, warn or error", a.level)
	}
	if a.driver.Node == "" {
		return wrong("--nodeid is missing: the name of this node")
	}
	socket, ok := strings.CutPrefix(a.endpoint, "unix://")
	if !ok {
		socket = strings.TrimPrefix(a.endpoint, "unix:")
	}
	if !filepath.IsAbs(socket) {
		return wrong("--endpoint %q: want unix:// and an absolute path", a.endpoint)
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	store, err := images.Open(ctx, images.Options{Dir: a.storage, Capacity: a.capacity, MaxSize: a.driver.MaxSize})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	a.driver.Images, a.driver.Version, a.driver.Log = store, version, log
	d, err := csi.New(a.driver)
	if err != nil {
		return err
	}
	a.registrar.Name, a.registrar.Log = a.driver.Name, log
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.Serve(ctx, socket) })
	if a.registrar.Endpoint != "" {
		group.Go(func() error { return a.registrar.Serve(ctx) })
	}
	log.Info("serves", "driver", a.driver.Name, "node", a.driver.Node, "socket", socket, "volumes", a.storage)
	return group.Wait()
}
