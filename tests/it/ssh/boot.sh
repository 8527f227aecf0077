#!/bin/sh
# Boots a server in namespaces that its caller made: this computer's own system, read-only below and a memory disk above,
# with systemd as process 1. Words: a folder for the memory disk, its size, the address of its end of the cable.
set -e
work=$1 size=$2 address=$3
mount --make-rprivate /
mount -t tmpfs -o "size=$size" tmpfs "$work"
mkdir "$work/up" "$work/work" "$work/root"
root=$work/root
mount -t overlay -o "lowerdir=/,upperdir=$work/up,workdir=$work/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom tty; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
: >"$root/dev/console"
# Nothing of this computer's people, and no unit of its own but those that systemd brings.
for folder in run tmp root home dev/shm; do mount -t tmpfs -o mode=755 tmpfs "$root/$folder"; done
chmod 1777 "$root/tmp" "$root/dev/shm"
rm -rf "$root/etc/systemd/system" "$root/etc/systemd/user" "$root/var/log/journal" "$root/usr/local/lib/portdistrict" \
  "$root/var/lib/portdistrict" "$root/var/lib/private"
mkdir -p "$root/etc/systemd/system" "$root/var/log/journal" "$root/run/sshd" "$root/etc/ssh/keys"
: >"$root/etc/fstab"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-kernel.socket systemd-udevd-control.socket \
  systemd-timesyncd.service systemd-networkd.service systemd-resolved.service systemd-modules-load.service \
  systemd-sysctl.service systemd-random-seed.service systemd-remount-fs.service systemd-pstore.service \
  systemd-firstboot.service systemd-update-utmp.service systemd-logind.service systemd-binfmt.service \
  dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
  sys-kernel-config.mount tmp.mount getty.target timers.target; do
  ln -s /dev/null "$root/etc/systemd/system/$unit"
done
cat >"$root/etc/systemd/system/test.target" <<END
[Unit]
Requires=basic.target test-sshd.service
After=basic.target
AllowIsolate=yes
END
cat >"$root/etc/systemd/system/test-sshd.service" <<END
[Service]
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D -e -f /etc/ssh/test_config
END
cat >"$root/etc/ssh/test_config" <<END
ListenAddress $address
HostKey /etc/ssh/test_key
AuthorizedKeysFile /etc/ssh/keys/%u
PasswordAuthentication no
PermitRootLogin prohibit-password
UsePAM no
MaxStartups 100
END
cp "$work.key" "$root/etc/ssh/test_key"
chmod 600 "$root/etc/ssh/test_key"
# Three people: root, one whom sudo asks nothing, one whom it asks for a password.
chroot "$root" useradd --create-home --shell /bin/bash --password '*' op
chroot "$root" useradd --create-home --shell /bin/sh --password '*' guest
chroot "$root" usermod --password '*' root
for name in root op guest; do cp "$work.pub" "$root/etc/ssh/keys/$name"; done
mkdir -p "$root/etc/sudoers.d"
echo 'op ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/op"
echo 'guest ALL=(ALL) ALL' >"$root/etc/sudoers.d/guest"
chmod 440 "$root/etc/sudoers.d/op" "$root/etc/sudoers.d/guest"
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  chroot "$root" /lib/systemd/systemd --unit=test.target --log-target=journal --show-status=0
