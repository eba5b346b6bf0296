// SPDX-License-Identifier: GPL-2.0
/* The smallest module that shows it was loaded: a line in the kernel's log, and a parameter. */
#include <linux/module.h>
#include <linux/printk.h>

static char *whom = "guest";
module_param(whom, charp, 0444);
MODULE_PARM_DESC(whom, "who is greeted");

static int __init hello_init(void)
{
	pr_info("katabuild: hello, %s\n", whom);
	return 0;
}

static void __exit hello_exit(void)
{
}

module_init(hello_init);
module_exit(hello_exit);
MODULE_DESCRIPTION("An example of a module outside of the kernel's tree");
MODULE_LICENSE("GPL");
