from ringblk.shm.layout.slot cimport RequestSlot
from ringblk.workers.fs.python_share cimport PythonShare
from ringblk.workers.fs.request cimport FolderRequest

cdef int answer_readdir(PythonShare self, RequestSlot *slot, FolderRequest *request, method) except? -1
