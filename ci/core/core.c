// A program that must be adapted to the kernel it is loaded into: it returns where this kernel has the field pid of its
// task_struct, which here is at the beginning. core.o is made of it by
//
//	clang -O2 -g -fdebug-compilation-dir=. -target bpfel -c core.c -o core.o && llvm-strip -g core.o
struct task_struct {
	int pid;
} __attribute__((preserve_access_index));

__attribute__((section("socket"), used)) int offset(void *packet)
{
	struct task_struct *task = 0;

	return __builtin_preserve_field_info(task->pid, 0); // BPF_FIELD_BYTE_OFFSET
}

__attribute__((section("license"), used)) char terms[] = "Dual MIT/GPL";
