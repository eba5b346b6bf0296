# Two?lines.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default StartContainerRequest := false

# Any.
StartContainerRequest := true

default ReadStreamRequest := false

ReadStreamRequest := true

ReadStreamRequest := true

default UpdateRoutesRequest := false

UpdateRoutesRequest if {
	every x1 in input.routes.Routes {
		like("eth[0-9]", x1.device)
	}
}

default CreateContainerRequest := false

CreateContainerRequest if {
	only(input, {"OCI", "exec_id"})
	only(input.OCI, {"Annotations", "Linux", "Mounts", "Process", "Root"})
	every x3, x2v in input.OCI.Annotations {
		x2 := concat("=", [x3, x2v])
		like("a=.*", x2)
	}
	every x4 in input.OCI.Mounts {
		one_of_1(x4)
	}
	only(input.OCI.Linux, {"Devices"})
	every x5 in input.OCI.Linux.Devices {
		one_of_2(x5)
	}
	only(input.OCI.Process, {"Args", "Env", "User"})
	count(input.OCI.Process.Args) == 2
	input.OCI.Process.Args[0] == "a\"b"
	like("c|d", input.OCI.Process.Args[1])
	input.OCI.Process.Env == ["A=b"]
	only(input.OCI.Process.User, {"AdditionalGids"})
	every x6 in input.OCI.Process.User.AdditionalGids {
		one_of_3(x6)
	}
	only(input.OCI.Root, {"Readonly"})
	input.OCI.Root.Readonly == true
}

one_of_1(x) if {
	only(x, {"source", "type_"})
	x.type_ == "proc"
}

one_of_1(x) if {
	only(x, {"options"})
	count(x.options) == 1
	like("x", x.options[0])
}

one_of_2(_) if false

one_of_3(x) if {
	x == 7
}

one_of_3(x) if {
	x == 8
}

# only says that a message has no field but these.
only(message, names) if {
	every name, value in message {
		fine(name, value, names)
	}
}

fine(name, _, names) if name in names

fine(_, value, _) if blank(value)

# blank is what a field is that was not sent, also of a message in which nothing was.
blank(value) if value in {"", 0, false, null}

blank([])

blank(value) if {
	is_object(value)
	every part in [p | walk(value, [_, p]); not is_object(p)] {
		flat(part)
	}
}

flat(value) if value in {"", 0, false, null}

flat([])

like(expression, value) if regex.match(concat("", ["^(?s:", expression, ")$"]), value)
