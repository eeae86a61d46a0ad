/* What `ip vrf exec` has a control group do: each socket is bound to an interface when it is made. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

SEC("cgroup/sock_create") int bind_socket(struct bpf_sock *sock)
{
	sock->bound_dev_if = 2;
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
