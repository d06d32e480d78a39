cimport cython

from tidegate_proxy.core.client cimport ClientConnection
from tidegate_proxy.core.server cimport ServerConnection


@cython.locals(client=ClientConnection)
cpdef read_tag(ServerConnection server, bytes tag)
