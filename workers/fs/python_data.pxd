from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.python_share cimport PythonShare
from ringblk.workers.fs.request cimport FolderRequest

# Each has `method` called and answers the request: 0, a negative errno, or what the method raises.
cdef int answer_getattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_setattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_statfs(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_open(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_node(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_read(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_write(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_copy(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_fsync(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_syncfs(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_access(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_fallocate(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_lseek(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_getxattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_listxattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_setxattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
cdef int answer_removexattr(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
