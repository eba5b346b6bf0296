mount -t proc -o nosuid,nodev,noexec proc /proc   # essential
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys   # essential
mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev   # essential
mount -t devpts -o nosuid,noexec,mode=0620,gid=5,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run
mount -t cgroup2 -o nosuid,nodev,noexec,relatime,nsdelegate cgroup2 /sys/fs/cgroup
ln -snf pts/ptmx /dev/ptmx
ln -snf /proc/self/fd /dev/fd
ln -snf /proc/self/fd/0 /dev/stdin
ln -snf /proc/self/fd/1 /dev/stdout
ln -snf /proc/self/fd/2 /dev/stderr
