package main

import (
	"github.com/spf13/cobra"

	"github.com/katabuild/katabuild/runtime/directvolume"
	"github.com/katabuild/katabuild/runtime/management"
)

func (a *app) directVolumeCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "direct-volume", Short: "say which volumes guests mount by themselves, and how full they are",
		Long: `direct-volume is for CSI drivers. A volume that is added is not mounted on the host: a container that
binds the path has its guest mount the disk of the description, which is Kata Containers' mountInfo.json:

  {"volume-type": "block", "device": "/dev/sdb", "fstype": "ext4", "metadata": {"fsGroup": "1000"}, "options": []}

device is a block device, or a file with a file system in it. A volume that is not read-only is one pod's alone.`,
	}
	var path, info, volumes string
	c.PersistentFlags().StringVar(&volumes, "volumes", directvolume.Root, "`folder` of the descriptions")
	volume := func(c *cobra.Command, flags ...string) *cobra.Command {
		c.Args = cobra.NoArgs
		c.Flags().StringVar(&path, "volume-path", "", "the `path` where containers find the volume on the host")
		require(c, append(flags, "volume-path")...)
		return c
	}
	add := volume(&cobra.Command{
		Use: "add", Short: "assign a volume directly",
		Example: `  kata-runtime direct-volume add --volume-path /mnt/v \
    --mount-info '{"volume-type": "block", "device": "/srv/v.img", "fstype": "ext4", "metadata": {}, "options": []}'`,
		RunE: func(*cobra.Command, []string) error {
			i, err := directvolume.Parse([]byte(info))
			if err != nil {
				return err
			}
			return directvolume.Add(volumes, path, i)
		},
	}, "mount-info")
	add.Flags().StringVar(&info, "mount-info", "", "the description, `JSON`")
	c.AddCommand(add,
		volume(&cobra.Command{
			Use: "remove", Short: "assign it no longer",
			Example: "  kata-runtime direct-volume remove --volume-path /mnt/v",
			RunE:    func(*cobra.Command, []string) error { return directvolume.Remove(volumes, path) },
		}),
		volume(&cobra.Command{
			Use: "stats", Short: "print how full it is, in JSON",
			Example: "  kata-runtime direct-volume stats --volume-path /mnt/v",
			RunE: func(c *cobra.Command, _ []string) error {
				b, err := management.Volumes{Dirs: a.dirs, Root: volumes}.Stats(c.Context(), path)
				if err != nil {
					return err
				}
				return a.printGuest(b)
			},
		}),
		volume(a.resizeCmd(&volumes, &path), "size"))
	return c
}

func (a *app) resizeCmd(volumes, path *string) *cobra.Command {
	var size int64
	c := &cobra.Command{
		Use: "resize", Short: "make the file system of a running pod's volume as large as its device",
		Long: `resize has the guest that has a volume make its ext4 as large as the volume's file or device, which must
be that large already: grow it first, as by truncate --size or lvextend. A guest of QEMU's does so while it has the
volume mounted. While no pod runs with it, e2fsck -f and resize2fs do the same on the host.`,
		Example: "  kata-runtime direct-volume resize --volume-path /mnt/v --size 2147483648",
		RunE: func(c *cobra.Command, _ []string) error {
			return management.Volumes{Dirs: a.dirs, Root: *volumes}.Resize(c.Context(), *path, size)
		},
	}
	c.Flags().Int64Var(&size, "size", 0, "the size that the device has, in `bytes`")
	return c
}
