package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tries notes which of some messages the kernel refused.
func tries(protocol int, names []string, messages []message) error {
	answers, err := ask(protocol, messages...)
	if err != nil {
		return err
	}
	var m missing
	for i, a := range answers {
		if a != 0 {
			m = append(m, fmt.Sprintf("%s: %v", names[i], a))
		}
	}
	return m.err()
}

// interfaces makes one of each kind.
func interfaces() error {
	const macMode = 1 // IFLA_MACVLAN_MODE; 4 is bridge
	mac := attribute(macMode, u32(4))
	err := tries(unix.NETLINK_ROUTE,
		[]string{"dummy", "veth", "bridge", "macvlan", "macvtap", "vlan"}, []message{
			newLink(dummy, "probe0", "dummy", 0, nil),
			newLink(101, "probe1", "veth", 0, nil),
			newLink(102, "probe2", "bridge", 0, nil),
			newLink(103, "probe3", "macvlan", dummy, mac),
			newLink(104, "probe4", "macvtap", dummy, mac),
			newLink(105, "probe5", "vlan", dummy, attribute(1, u16(7))), // IFLA_VLAN_ID
		})
	var m missing
	m.works("interfaces", err)
	m.works("tun", tun())
	return m.err()
}

// overlays makes a network over another, and a bridge that keeps networks apart.
func overlays() error {
	const vlanFiltering = 7 // IFLA_BR_VLAN_FILTERING
	err := tries(unix.NETLINK_ROUTE, []string{"bridge", "vxlan"}, []message{
		newLink(107, "probe7", "bridge", 0, attribute(vlanFiltering, []byte{1})),
		newLink(106, "probe6", "vxlan", 0, join(attribute(1, u32(7)), // IFLA_VXLAN_ID
			attribute(15, []byte{0x12, 0xb5}))), // IFLA_VXLAN_PORT, 4789
	})
	var m missing
	m.works("interfaces", err)
	// The bridge answers to a request about one.
	if err == nil {
		m.works("a bridge's networks", bridgeVLAN(107))
	}
	return m.err()
}

// bridgeVLAN asks a bridge itself to be in a network: AF_SPEC with BRIDGE_VLAN_INFO, flag SELF. Without the option
// bridges have no such networks.
func bridgeVLAN(number uint32) error {
	const (
		afBridge  = unix.AF_BRIDGE
		flags     = 0      // IFLA_BRIDGE_FLAGS
		info      = 2      // IFLA_BRIDGE_VLAN_INFO
		self      = 2      // BRIDGE_FLAGS_SELF
		afSpec    = 26     // IFLA_AF_SPEC
		brEntry   = 1 << 5 // BRIDGE_VLAN_INFO_BRENTRY
		networkID = 9
	)
	return one(unix.NETLINK_ROUTE, message{kind: unix.RTM_SETLINK, body: join([]byte{afBridge, 0, 0, 0}, u32(number),
		make([]byte, 8), attribute(afSpec|unix.NLA_F_NESTED, attribute(flags, u16(self)),
			attribute(info, u16(brEntry), u16(networkID))))})
}

// tun makes an interface that goes with its descriptor.
func tun() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	request, err := unix.NewIfreq("probe7")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	return unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request)
}

func tunnel() error { return one(unix.NETLINK_ROUTE, newLink(dummy, "probe0", "wireguard", 0, nil)) }

// clsact is where filters of incoming packets hang, and their handle.
const (
	clsact  = 0xfffffff1 // TC_H_INGRESS, the parent of the queue ingress
	ingress = 0xffff0000 // its handle
)

// queues makes one of each kind, and filters and actions.
func queues() error {
	if err := one(unix.NETLINK_ROUTE, newLink(dummy, "probe0", "dummy", 0, nil)); err != nil {
		return fmt.Errorf("an interface: %w", err)
	}
	var m missing
	const replace = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	const root = 0xffffffff // TC_H_ROOT
	for i, kind := range []string{"fq", "fq_codel", "htb", "tbf"} {
		var options []byte
		if kind == "htb" {
			// TCA_HTB_INIT with struct tc_htb_glob: version 3, rate2quantum, default class, debug, direct packets
			options = attribute(2, u32(3), u32(10), u32(0), u32(0), u32(0))
		}
		err := one(unix.NETLINK_ROUTE, message{kind: unix.RTM_NEWQDISC, flags: replace,
			body: tcBody(uint32(i+1)<<16, root, 0, kind, options)})
		// A queue that is there refuses to be made without a rate.
		if kind == "tbf" && errors.Is(err, unix.EINVAL) {
			err = nil
		}
		m.works("queue "+kind, err)
	}
	err := one(unix.NETLINK_ROUTE, message{kind: unix.RTM_NEWQDISC, flags: create,
		body: tcBody(ingress, clsact, 0, "ingress", nil)})
	m.works("queue ingress", err)
	if err == nil {
		for i, kind := range []string{"u32", "matchall"} {
			m.works("filter "+kind, newFilter(kind, i+1))
		}
	}
	for _, kind := range []string{"mirred", "gact"} {
		m.works("action "+kind, newAction(kind))
	}
	return m.err()
}

// newFilter asks for a filter without options. One whose kind is there may refuse that.
func newFilter(kind string, priority int) error {
	protocol := uint32(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})) // in network order
	return known(one(unix.NETLINK_ROUTE, message{kind: unix.RTM_NEWTFILTER, flags: create,
		body: tcBody(0, ingress, uint32(priority)<<16|protocol, kind, nil)}))
}

// newAction asks for an action without options. One whose kind is there refuses that.
func newAction(kind string) error {
	const tcaActTab = 1 // TCA_ACT_TAB; in it a number, 1, and the action's kind, TCA_ACT_KIND
	return known(one(unix.NETLINK_ROUTE, message{kind: unix.RTM_NEWACTION, flags: create,
		body: join(make([]byte, 4), attribute(tcaActTab|unix.NLA_F_NESTED,
			attribute(1|unix.NLA_F_NESTED, attribute(1, text(kind)))))}))
}

// known passes the answers on that say that there is no such kind: any other is one of the kind itself.
func known(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) ||
		errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return err
	}
	return nil
}

// trafficPrograms wants filters and actions that are programs.
func trafficPrograms() error {
	if err := one(unix.NETLINK_ROUTE, newLink(dummy, "probe0", "dummy", 0, nil)); err != nil {
		return fmt.Errorf("an interface: %w", err)
	}
	var m missing
	err := one(unix.NETLINK_ROUTE, message{kind: unix.RTM_NEWQDISC, flags: create,
		body: tcBody(ingress, clsact, 0, "ingress", nil)})
	m.works("queue ingress", err)
	if err == nil {
		m.works("filter bpf", newFilter("bpf", 1))
	}
	m.works("action bpf", newAction("bpf"))
	return m.err()
}

// routingRules makes a rule of either protocol.
func routingRules() error {
	const lookup = 1 // FR_ACT_TO_TBL
	rule := func(fam byte) message {
		// struct fib_rule_hdr: family, lengths, tos, table, two reserved, action, flags
		return message{kind: unix.RTM_NEWRULE, flags: create,
			body: join([]byte{fam, 0, 0, 0, 77, 0, 0, lookup}, u32(0), attribute(unix.FRA_PRIORITY, u32(77)))}
	}
	return tries(unix.NETLINK_ROUTE, []string{"rules of IPv4", "rules of IPv6"},
		[]message{rule(unix.AF_INET), rule(unix.AF_INET6)})
}

// socketLists wants those of each family.
func socketLists() error {
	var m missing
	for name, protocol := range map[string]byte{"TCP": unix.IPPROTO_TCP, "UDP": unix.IPPROTO_UDP} {
		// struct inet_diag_req_v2: family, protocol, extensions, padding, states, and whose socket, 48 bytes
		m.works("sockets of "+name, one(unix.NETLINK_SOCK_DIAG, message{kind: sockDiag, flags: unix.NLM_F_DUMP,
			body: join([]byte{unix.AF_INET, protocol, 0, 0}, u32(1<<32-1), make([]byte, 48))}))
	}
	m.works("sockets of packets", diag(unix.AF_PACKET, make([]byte, 16)))
	m.works("sockets of UNIX", diag(unix.AF_UNIX, join(u32(1<<32-1), make([]byte, 16))))
	m.works("sockets of netlink", diag(unix.AF_NETLINK, make([]byte, 16)))
	return m.err()
}

// The parts of netfilter's netlink, of <linux/netfilter/nfnetlink.h>, and its families.
const (
	partConntrack = 1
	partSets      = 6
	partTables    = 10
	batchBegin    = 16 // NFNL_MSG_BATCH_BEGIN
	batchEnd      = 17

	familyInet   = 1
	familyIPv4   = 2
	familyARP    = 3
	familyNetdev = 5
	familyBridge = 7
	familyIPv6   = 10
)

// connections asks for the counters of connection tracking.
func connections() error {
	const counters = 5 // IPCTNL_MSG_CT_GET_STATS
	if err := one(unix.NETLINK_NETFILTER, nf(partConntrack, counters, 0, 0, 0)); err != nil {
		return fmt.Errorf("tracked connections through netlink: %w", err)
	}
	return nil
}

// sets asks for the types of sets.
func sets() error {
	const kind = 13 // IPSET_CMD_TYPE
	var m missing
	for _, name := range []string{"bitmap:port", "hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net",
		"hash:net",
		"hash:net,port", "list:set"} {
		m.works("type "+name, one(unix.NETLINK_NETFILTER, nf(partSets, kind, 0, familyIPv4, 0,
			// protocol, name, family
			attribute(1, []byte{6}), attribute(3, text(name)), attribute(5, []byte{familyIPv4}))))
	}
	m.works("match", xtables("matches", "set")())
	return m.err()
}

// matches and xtTargets are those of iptables, of both protocols.
const (
	matches = "addrtype comment conntrack physdev recent statistic multiport owner cgroup limit hashlimit connlimit " +
		"iprange mac mark connmark pkttype socket state string tcpmss u32 bpf"
	xtTargets = "MARK CONNMARK SNAT DNAT MASQUERADE REDIRECT LOG TPROXY TCPMSS CT NFLOG CHECKSUM REJECT"
)

// xtables wants a list of either protocol to have names.
func xtables(list, names string) func() error {
	return all(lists("/proc/thread-self/net/ip_tables_"+list, strings.Fields(names)...),
		lists("/proc/thread-self/net/ip6_tables_"+list, strings.Fields(names)...))
}

// oldTables has the kernel make each.
func oldTables() error {
	var m missing
	for _, p := range []struct {
		name          string
		family, level int
	}{{"IPv4", unix.AF_INET, unix.SOL_IP}, {"IPv6", unix.AF_INET6, unix.SOL_IPV6}} {
		fd, err := unix.Socket(p.family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			m.works("a socket of "+p.name, err)
			continue
		}
		for _, table := range []string{"filter", "nat", "mangle", "raw"} {
			const getInfo = 64 // IPT_SO_GET_INFO and IP6T_SO_GET_INFO
			var info [84]byte  // struct ipt_getinfo: a name of 32 bytes, then 13 numbers
			copy(info[:31], table)
			size := uint32(len(info))
			if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(p.level), getInfo,
				uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
				m.works("table "+table+" of "+p.name, errno)
			}
		}
		unix.Close(fd)
	}
	return m.err()
}

// services adds one of each scheduler.
func services() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var m missing
	for i, scheduler := range []string{"rr", "wrr", "sh", "lc"} {
		const add = 64 + 1024 + 64 + 2 // IP_VS_SO_SET_ADD
		// struct ip_vs_service_user: protocol, address, port, mark, scheduler, flags, timeout, mask
		var service [44]byte
		binary.NativeEndian.PutUint16(service[0:], unix.IPPROTO_TCP)
		copy(service[4:], net.IPv4(192, 0, 2, 1).To4()) // RFC 5737
		binary.BigEndian.PutUint16(service[8:], uint16(80+i))
		copy(service[16:31], scheduler)
		copy(service[40:], "\xff\xff\xff\xff")
		if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_IP, add,
			uintptr(unsafe.Pointer(&service)), uintptr(len(service)), 0); errno != 0 {
			m.works("scheduler "+scheduler, errno)
		}
	}
	m.works("tracking", there("/proc/sys/net/ipv4/vs/conntrack")())
	m.works("match", xtables("matches", "ipvs")())
	return m.err()
}

// Attributes and commands of nftables, of <linux/netfilter/nf_tables.h>.
const (
	newTable = 0
	newChain = 3
	newRule  = 6
)

// batch has nftables do several things at once, or none.
func batch(messages ...message) []message {
	begin := nf(0, batchBegin, 0, 0, partTables)
	end := nf(0, batchEnd, 0, 0, partTables)
	begin.quiet, end.quiet = true, true
	return append(append([]message{begin}, messages...), end)
}

func newTableOf(fam byte) message {
	return nf(partTables, newTable, unix.NLM_F_CREATE, fam, 0, attribute(1, text("probe")))
}

// families makes a table of each.
func families() error {
	var m missing
	for _, f := range []struct {
		name string
		fam  byte
	}{{"inet", familyInet}, {"ip", familyIPv4}, {"ip6", familyIPv6}, {"arp", familyARP}, {"bridge", familyBridge},
		{"netdev", familyNetdev}} {
		answers, err := ask(unix.NETLINK_NETFILTER, batch(newTableOf(f.fam))...)
		if err != nil {
			return err
		}
		if answers[1] != 0 {
			m.works("a table of the family "+f.name, answers[1])
		}
	}
	return m.err()
}

// expressions makes a rule of each, without what it needs. The kernel refuses: an expression that it does not know as
// not there, and others as incomplete.
func expressions() error {
	var m missing
	for _, f := range []struct {
		name  string
		fam   byte
		names string
	}{
		{"ip", familyIPv4, "numgen ct connlimit log limit masq redir nat quota reject hash fib tproxy socket " +
			"match target"},
		{"ip6", familyIPv6, "fib masq redir nat reject tproxy socket match target"},
		{"inet", familyInet, "fib masq redir nat reject tproxy socket"},
		{"bridge", familyBridge, "reject"},
	} {
		m.works("the family "+f.name, expressionsOf(f.fam, strings.Fields(f.names)))
	}
	return m.err()
}

// expressionsOf tries some, of one family.
func expressionsOf(fam byte, names []string) error {
	messages := []message{newTableOf(fam),
		nf(partTables, newChain, unix.NLM_F_CREATE, fam, 0, attribute(1, text("probe")), attribute(3, text("probe")))}
	for _, e := range names {
		messages = append(messages, nf(partTables, newRule, unix.NLM_F_CREATE|unix.NLM_F_APPEND, fam, 0,
			attribute(1, text("probe")), attribute(2, text("probe")),
			attribute(4|unix.NLA_F_NESTED, attribute(1|unix.NLA_F_NESTED, attribute(1, text(e)),
				attribute(2|unix.NLA_F_NESTED)))))
	}
	answers, err := ask(unix.NETLINK_NETFILTER, batch(messages...)...)
	if err != nil {
		return err
	}
	var m missing
	for i, a := range answers[1:3] {
		if a != 0 {
			m.works([]string{"a table", "a chain"}[i], a)
		}
	}
	for i, e := range names {
		if err := known(answers[3+i]); answers[3+i] != 0 && err != nil {
			m.works(e, err)
		}
	}
	return m.err()
}
